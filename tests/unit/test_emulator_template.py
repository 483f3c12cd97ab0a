"""The template as the emulator reads it."""

from pathlib import Path
from textwrap import dedent

import pytest

from local.emulator.intrinsics import TemplateError, Unresolved
from local.emulator.process import command, declared_environment
from local.emulator.settings import EmulatorSettings
from local.emulator.template import Function, RetryPolicy, Template, UrlMode, read_template

FULL = """
    AWSTemplateFormatVersion: 2010-09-09
    Parameters:
      Stage: {Type: String, Default: prod}
      Secret: {Type: String}
    Conditions:
      IsProd: !Equals [!Ref Stage, prod]
      IsTest: !Not [!Condition IsProd]
    Mappings:
      Sizes: {prod: {memory: 512}}
    Globals:
      Function:
        Handler: handler.handler
        Timeout: 10
        Environment: {Variables: {STAGE: !Ref Stage, SHARED: global}}
    Resources:
      Layer: {Type: AWS::Serverless::LayerVersion, Properties: {ContentUri: layers/core}}
      Table: {Type: AWS::DynamoDB::Table}
      Worker:
        Type: AWS::Serverless::Function
        Properties:
          FunctionName: !Sub "${AWS::StackName}-worker"
          CodeUri: functions/worker
          MemorySize: !FindInMap [Sizes, !Ref Stage, memory]
          AutoPublishAlias: live
          Layers: [!Ref Layer, "arn:aws:lambda:us-east-1:1:layer:foreign:1"]
          ReservedConcurrentExecutions: !If [IsProd, 5, !Ref AWS::NoValue]
          FunctionUrlConfig: {AuthType: NONE, InvokeMode: RESPONSE_STREAM}
          EventInvokeConfig: {MaximumRetryAttempts: 1, MaximumEventAgeInSeconds: 90}
          DeadLetterQueue: {Type: SQS, TargetArn: "arn:aws:sqs:::q"}
          Environment:
            Variables:
              SHARED: own
              OTHER: !Ref Other
              OTHER_LIVE: !Sub "${Other.Arn}:live"
              JOINED: !Join ["-", [a, !Select [1, [x, y]], !Ref "AWS::Region"]]
              TABLE: !GetAtt Table.Arn
              SECRET: !Ref Secret
          Events:
            Tick: {Type: Schedule, Properties: {Schedule: rate(1 minute)}}
            Off: {Type: Schedule, Properties: {Schedule: rate(1 day), Enabled: false}}
            Night:
              Type: ScheduleV2
              Properties:
                ScheduleExpression: cron(0 3 * * ? *)
                ScheduleExpressionTimezone: Europe/Vienna
      Other:
        Type: AWS::Serverless::Function
        Properties: {CodeUri: functions/other}
      Absent:
        Type: AWS::Serverless::Function
        Condition: IsTest
        Properties: {CodeUri: functions/absent}
"""


def read(folder: Path, text: str) -> Template:
    (folder / "layers" / "core" / "src").mkdir(parents=True)
    path = folder / "template.yaml"
    path.write_text(dedent(text))
    return read_template(path)


@pytest.fixture
def worker(tmp_path: Path) -> Function:
    found = read(tmp_path, FULL).function("worker")
    assert found is not None
    return found


def test_functions_come_with_globals_and_intrinsics_resolved(worker: Function) -> None:
    assert (worker.name, worker.short, worker.logical_id) == ("lambent-worker", "worker", "Worker")
    assert (worker.timeout_s, worker.memory_mb, worker.reserved_concurrency) == (10.0, 512, 5)
    assert (worker.url, worker.alias, worker.version) == (UrlMode.RESPONSE_STREAM, "live", "1")
    assert worker.retry == RetryPolicy(retries=1, max_age_s=90, dead_letter="arn:aws:sqs:::q")
    assert [layer.name for layer in worker.layers] == ["core"]
    assert worker.environment == {
        "STAGE": "prod",
        "SHARED": "own",
        "OTHER": "Other",
        "OTHER_LIVE": "arn:aws:lambda:us-east-1:123456789012:function:Other:live",
        "JOINED": "a-y-us-east-1",
        "TABLE": Unresolved("Table.Arn"),
        "SECRET": Unresolved("parameter Secret"),
    }


def test_only_enabled_schedules_are_kept(worker: Function) -> None:
    assert [(s.name, s.expression, s.scheduler, s.timezone) for s in worker.schedules] == [
        ("WorkerTick", "rate(1 minute)", False, "UTC"),
        ("WorkerNight", "cron(0 3 * * ? *)", True, "Europe/Vienna"),
    ]


def test_a_function_under_a_false_condition_does_not_exist(tmp_path: Path) -> None:
    assert [f.short for f in read(tmp_path, FULL).functions] == ["worker", "other"]


@pytest.mark.parametrize(
    ("condition", "target", "mode"),
    [
        ("IsProd", "!Ref Other", UrlMode.RESPONSE_STREAM),
        ("IsProd", "!GetAtt Other.Arn", UrlMode.RESPONSE_STREAM),
        ("IsTest", "!Ref Other", None),
        ("IsProd", "!Ref Absent", None),
    ],
)
def test_a_url_may_be_a_resource_of_its_own(
    tmp_path: Path, condition: str, target: str, mode: UrlMode | None
) -> None:
    url = f"""
      OtherUrl:
        Type: AWS::Lambda::Url
        Condition: {condition}
        Properties: {{TargetFunctionArn: {target}, AuthType: NONE, InvokeMode: RESPONSE_STREAM}}
    """
    other = read(tmp_path, FULL + url[1:]).function("other")
    assert other is not None
    assert other.url == mode


def test_values_that_only_aws_knows_must_be_supplied(worker: Function, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"TABLE \(needs Table\.Arn\), SECRET"):
        declared_environment(worker, EmulatorSettings(log_folder=tmp_path))
    supplied = EmulatorSettings(
        log_folder=tmp_path, overrides={"TABLE": "t", "SECRET": "s", "UNDECLARED": "u"}
    )
    variables = declared_environment(worker, supplied)
    assert (variables["TABLE"], variables["SECRET"]) == ("t", "s")
    assert "UNDECLARED" not in variables


def test_an_exec_wrapper_is_found_in_its_layer(worker: Function, tmp_path: Path) -> None:
    wrapped = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/lambda-stream"}
    assert command(worker, wrapped)[1:3] == ["-m", "lambda_stream"]
    script = tmp_path / "layers" / "core" / "lambda-stream"
    script.write_text('#!/bin/sh\nexec "$1" -m lambda_stream\n')
    assert command(worker, wrapped)[:2] == ["/bin/sh", str(script)]
    script.chmod(0o755)
    assert command(worker, wrapped)[0] == str(script)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("Resources: {}", "declares no"),
        ("Resources: [", "not valid YAML"),
        ("Resources: {A: {Type: AWS::Serverless::Function}}", "A lacks Handler and CodeUri"),
    ],
)
def test_a_template_that_cannot_run_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        read(tmp_path, text)


def test_the_platforms_own_template_is_readable() -> None:
    template = read_template(Path(__file__).parents[2] / "template.yaml")
    names = {function.short for function in template.functions}
    assert names == {"chat", "gateway", "step", "deliver", "poller", "setup"}
    urls = {function.short: function.url for function in template.functions if function.url}
    assert urls == {"chat": UrlMode.RESPONSE_STREAM, "gateway": UrlMode.BUFFERED}


def test_in_a_vpc_the_platform_s_chat_has_no_url() -> None:
    path = Path(__file__).parents[2] / "template.yaml"
    template = read_template(path, parameters={"SubnetIds": "subnet-1"})
    assert [function.short for function in template.functions if function.url] == ["gateway"]
