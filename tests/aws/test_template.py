"""The stack as CloudFormation gets it: the transformed template, not its source.

What cannot run without an AWS account (arm64, SnapStart, CloudFront, alarms, API Gateway) is held
here. Validating the source finds neither circles nor the policies that SAM generates.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from lambent.metrics import Metric
from local.aws.transform import read_template, transform
from local.emulator.intrinsics import Resolver, Unresolved
from local.front import CHAT_PATHS

ROOT = Path(__file__).resolve().parents[2]
CFN_LINT = str(Path(sys.executable).with_name("cfn-lint"))
EVERYTHING = {
    "Rollout": "Canary10Percent5Minutes",
    "SubnetIds": "subnet-1",
    "SecurityGroupIds": "sg-1",
    "CloudFront": "true",
    "OriginSecret": "not-a-secret-at-all",
    "OriginSecretOther": "nor-is-this-one",
    "SecretArns": "arn:aws:secretsmanager:us-east-1:123456789012:secret:lambent-a1b2c3",
    "Tracing": "xray",
    "SnapStart": "PublishedVersions",
    "WebAclArn": "arn:aws:wafv2:us-east-1:123456789012:global/webacl/x/y",
}
NAMES = ("Chat", "Gateway", "Step", "Deliver", "Poller", "Setup")
# The few wide grants, each with its reason. Anything else with a `*` is refused.
ALLOWED_WIDE = {
    ("TracingPolicy", "xray:PutTraceSegments"): "X-Ray knows no resources",
    ("TracingPolicy", "xray:PutTelemetryRecords"): "X-Ray knows no resources",
    ("VpcPolicy", "ec2:CreateNetworkInterface"): "Lambda checks for this grant as it stands",
    ("VpcPolicy", "ec2:DescribeNetworkInterfaces"): "EC2's describe calls know no resources",
    ("VpcPolicy", "ec2:DescribeSubnets"): "EC2's describe calls know no resources",
    ("VpcPolicy", "ec2:DeleteNetworkInterface"): "Lambda checks for this grant as it stands",
    ("VpcPolicy", "ec2:AssignPrivateIpAddresses"): "Lambda checks for this grant as it stands",
    ("VpcPolicy", "ec2:UnassignPrivateIpAddresses"): "Lambda checks for this grant as it stands",
    ("DeploymentRole", "cloudwatch:DescribeAlarms"): "CloudWatch's describe knows no resources",
}


@lru_cache
def transformed(everything: bool = False) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the translator's own
        return transform(read_template(), parameters=EVERYTHING if everything else {})


def resources(kind: str, *, everything: bool = False) -> dict[str, dict[str, Any]]:
    found = transformed(everything)["Resources"].items()
    return {name: body["Properties"] for name, body in found if body["Type"] == kind}


def function(name: str, *, everything: bool = False) -> dict[str, Any]:
    return resources("AWS::Lambda::Function", everything=everything)[name]


def standing(**parameters: str) -> dict[str, dict[str, Any]]:
    """The resources that are made with these parameters: those whose condition holds."""
    template = transformed()
    values = {"Tracing": "off", **parameters}
    resolver = Resolver(template, parameters=values, references=Unresolved,
                        attributes=lambda owner, name: Unresolved(f"{owner}.{name}"))  # fmt: skip
    return {name: body for name, body in template["Resources"].items()
            if "Condition" not in body or resolver.condition(body["Condition"])}  # fmt: skip


def public(resources: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    """What everybody may do, and to which alias."""
    return {(body["Properties"]["FunctionName"]["Ref"], body["Properties"]["Action"])
            for body in resources.values() if body["Type"] == "AWS::Lambda::Permission"
            and body["Properties"]["Principal"] == "*"}  # fmt: skip


def statements() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every policy statement of every role and managed policy, with its owner's logical id."""
    for name, role in resources("AWS::IAM::Role", everything=True).items():
        for policy in role.get("Policies", []):
            yield from ((name, each) for each in policy["PolicyDocument"]["Statement"])
    for name, policy in resources("AWS::IAM::ManagedPolicy", everything=True).items():
        for each in policy["PolicyDocument"]["Statement"]:
            yield name, (each["Fn::If"][1] if "Fn::If" in each else each)


@pytest.mark.parametrize("everything", [False, True], ids=["defaults", "every option"])
def test_the_transformed_template_passes_cfn_lint(everything: bool, tmp_path: Path) -> None:
    path = tmp_path / "transformed.json"
    path.write_text(json.dumps(transformed(everything)))
    # W7001: the map that only SAM reads. W1001: roles that exist under the condition of their user.
    command = [CFN_LINT, "--ignore-checks", "W7001", "W1001", "--", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_source_passes_cfn_lint() -> None:
    done = subprocess.run(
        [CFN_LINT, str(ROOT / "template.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_no_grant_is_wider_than_it_must_be() -> None:
    wide = {
        (owner, action)
        for owner, statement in statements()
        for action in statement["Action"]
        if "*" in action or "*" in json.dumps(statement["Resource"])
    }
    assert wide == set(ALLOWED_WIDE)


def test_every_function_has_a_role_of_its_own_and_none_of_sam_s() -> None:
    roles = set(resources("AWS::IAM::Role"))
    assert roles == {f"{name}Role" for name in NAMES} | {"DeploymentRole"}
    for name in NAMES:
        assert function(name)["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}
    ours = resources("AWS::IAM::Role").values()
    assert "arn:" not in json.dumps([role.get("ManagedPolicyArns") for role in ours])


def test_only_setup_may_put_the_admin_key_and_nobody_may_read_it() -> None:
    holders = [(owner, statement["Action"]) for owner, statement in statements()
               if "AdminKeySecret" in json.dumps(statement["Resource"])]  # fmt: skip
    assert holders == [("SetupRole", ["secretsmanager:PutSecretValue"])]


def test_nudges_name_the_live_alias() -> None:
    for owner, statement in statements():
        if "lambda:InvokeFunction" in statement["Action"]:
            assert owner != "SetupRole"
            assert all(each["Fn::Sub"].endswith(":live") for each in statement["Resource"])
    variables = function("Step")["Environment"]["Variables"]
    for name in ("STEP_FUNCTION", "DELIVER_FUNCTION", "POLLER_FUNCTION"):
        assert variables[name]["Fn::Sub"].endswith(":live")


def test_each_function_may_send_the_nudges_that_it_sends_and_no_others() -> None:
    """What each of them really sends, the emulator holds against its role: see `running_stack`."""
    sends = {owner: {each["Fn::Sub"].rpartition("-")[2] for each in statement["Resource"]}
             for owner, statement in statements()
             if "lambda:InvokeFunction" in statement["Action"]}  # fmt: skip
    # Who starts runs and publishes events reaches all three; the poller rings for no other poller.
    everything = {"step:live", "deliver:live", "poller:live"}
    those = {f"{name}Role": everything for name in ("Chat", "Gateway", "Step", "Deliver")}
    assert sends == {**those, "PollerRole": everything - {"poller:live"}}


def test_no_function_knows_a_public_address() -> None:
    for name in NAMES:
        environment = json.dumps(function(name, everything=True)["Environment"])
        assert "FunctionUrl" not in environment
        assert "execute-api" not in environment


def test_every_function_but_setup_waits_for_the_stores() -> None:
    for name in NAMES:
        waits = transformed()["Resources"][name].get("DependsOn", [])
        assert ("Stores" in waits) == (name != "Setup")
    stores = resources("Custom::LambentStores")["Stores"]
    assert stores["ServiceTimeout"] == 300
    # Changes with the layers: their logical ids hold a hash of what is in them.
    code = [layer["Ref"] for layer in stores["Code"]["Fn::Join"][1]]
    assert code == [layer["Ref"] for layer in function("Setup")["Layers"]]


def test_new_code_in_a_layer_makes_a_new_version() -> None:
    for name in NAMES:
        layers = [layer["Ref"] for layer in function(name)["Layers"]]
        # The logical id holds a hash of the layer, so the function's properties change with it.
        assert all(re.fullmatch(r"\w+Layer[0-9a-f]{10}", layer) for layer in layers)
    versions = resources("AWS::Lambda::Version")
    assert len(versions) == len(resources("AWS::Lambda::Alias")) == len(NAMES)
    assert all(body["DeletionPolicy"] == "Delete"
               for body in transformed()["Resources"].values()
               if body["Type"] == "AWS::Lambda::Version")  # fmt: skip


def test_functions_that_invoke_each_other_may_recurse() -> None:
    allowed = {name for name in NAMES if function(name).get("RecursiveLoop") == "Allow"}
    assert allowed == {"Step", "Deliver", "Poller"}


def test_the_poller_runs_each_minute_and_its_concurrency_is_never_reserved() -> None:
    (rule,) = resources("AWS::Events::Rule").values()
    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert rule["Targets"][0]["Arn"] == {"Ref": "PollerAliaslive"}
    reserved = {n for n in NAMES if "ReservedConcurrentExecutions" in function(n)}
    assert reserved == {"Chat", "Step"}
    for name in reserved:
        choice = function(name)["ReservedConcurrentExecutions"]["Fn::If"]
        assert choice[2] == {"Ref": "AWS::NoValue"}


def test_asynchronous_invokes_are_not_repeated_and_end_in_the_queue() -> None:
    configs = resources("AWS::Lambda::EventInvokeConfig")
    assert {c["FunctionName"]["Ref"] for c in configs.values()} == {"Step", "Deliver", "Poller"}
    for config in configs.values():
        assert config["Qualifier"] == "live" or "Fn::GetAtt" in config["Qualifier"]
        assert config["MaximumRetryAttempts"] == 0
        target = config["DestinationConfig"]["OnFailure"]["Destination"]
        assert target == {"Fn::GetAtt": ["DeadLetters", "Arn"]}


def test_urls_stream_or_buffer_as_their_functions_do() -> None:
    urls = resources("AWS::Lambda::Url")
    assert urls["ChatUrl"]["InvokeMode"] == "RESPONSE_STREAM"
    assert urls["GatewayUrl"]["InvokeMode"] == "BUFFERED"
    assert urls["ChatUrl"]["TargetFunctionArn"] == {"Ref": "ChatAliaslive"}
    # Both grants are needed since October 2025.
    grants = ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction")
    aliases = ("ChatAliaslive", "GatewayAliaslive")
    assert public(standing()) == {(alias, grant) for alias in aliases for grant in grants}


def test_only_chat_and_gateway_shift_traffic_slowly() -> None:
    groups = resources("AWS::CodeDeploy::DeploymentGroup", everything=True)
    assert set(groups) == {"ChatDeploymentGroup", "GatewayDeploymentGroup"}
    assert not resources("AWS::CodeDeploy::DeploymentGroup")


def test_a_rollout_goes_back_for_whatever_a_caller_sees_fail() -> None:
    """An exception that was answered is none to Lambda: its own metric alone would miss a 500."""
    groups = resources("AWS::CodeDeploy::DeploymentGroup", everything=True)
    heard = {name.removesuffix("DeploymentGroup"): body["AlarmConfiguration"]["Alarms"]
             for name, body in groups.items()}  # fmt: skip
    named = {name: {one["Name"]["Ref"] for one in alarms} for name, alarms in heard.items()}
    assert named == {
        "Chat": {"ChatErrors", "ChatFailed", "StreamsBroken"},
        "Gateway": {"GatewayErrors", "GatewayFailed"},
    }


def test_codedeploy_may_do_what_aws_s_own_policy_for_it_grants() -> None:
    """AWSCodeDeployRoleForLambdaLimited, without the packages that lie in S3 and hooks: none is."""
    granted = {action for owner, statement in statements() if owner == "DeploymentRole"
               for action in statement["Action"]}  # fmt: skip
    assert granted == {
        "lambda:GetAlias",
        "lambda:UpdateAlias",
        "lambda:GetProvisionedConcurrencyConfig",
        "cloudwatch:DescribeAlarms",
    }


def test_cloudfront_sends_the_paths_where_the_local_front_does() -> None:
    config = resources("AWS::CloudFront::Distribution")["Front"]["DistributionConfig"]
    behaviors = config["CacheBehaviors"]
    assert tuple(each["PathPattern"] for each in behaviors) == CHAT_PATHS
    assert {each["TargetOriginId"] for each in behaviors} == {"chat"}
    assert config["DefaultCacheBehavior"]["TargetOriginId"] == "gateway"
    for each in (*behaviors, config["DefaultCacheBehavior"]):
        assert each["CachePolicyId"] == "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
        assert each["OriginRequestPolicyId"] == "b689b0a8-53d0-40ab-baf2-68738e2966ac"
    for origin in config["Origins"]:
        assert origin["CustomOriginConfig"]["OriginReadTimeout"] == 120
        assert origin["OriginCustomHeaders"][0]["HeaderValue"] == {"Ref": "OriginSecret"}


def test_the_front_s_secret_is_what_the_functions_ask_for() -> None:
    for name in ("Chat", "Gateway"):
        variables = function(name)["Environment"]["Variables"]
        assert variables["ORIGIN_SECRET"] == {"Ref": "OriginSecret"}
        assert variables["ORIGIN_SECRET_OTHER"] == {"Ref": "OriginSecretOther"}
    needed = transformed()["Rules"]["CloudFrontNeedsItsSecret"]["Assertions"][0]["Assert"]
    assert needed == {"Fn::Not": [{"Fn::Equals": [{"Ref": "OriginSecret"}, ""]}]}
    front = resources("AWS::CloudFront::Distribution")["Front"]["DistributionConfig"]
    assert all(len(origin["OriginCustomHeaders"]) == 1 for origin in front["Origins"])


@pytest.mark.parametrize("parameter", ["OriginSecret", "OriginSecretOther"])
def test_the_front_s_secret_is_no_reference_which_cloudfront_would_send_as_it_stands(
    parameter: str,
) -> None:
    body = read_template()["Parameters"][parameter]
    for good in ("", "x" * 16, "not-a-secret-at:all"):
        assert re.search(body["AllowedPattern"], good)
    for wrong in ("short", "ssm:/lambent/origin-secret", "secretsmanager:lambent#origin"):
        assert not re.search(body["AllowedPattern"], wrong)
    assert "reference" in body["ConstraintDescription"]


def test_a_firewall_stands_before_whatever_is_the_front() -> None:
    front = resources("AWS::CloudFront::Distribution")["Front"]["DistributionConfig"]
    assert front["WebACLId"]["Fn::If"][:2] == ["HasWebAcl", {"Ref": "WebAclArn"}]
    guard = transformed()["Resources"]["ChatApiGuard"]
    assert guard["Condition"] == "GuardsApi"
    assert guard["Properties"]["WebACLArn"] == {"Ref": "WebAclArn"}


def test_outputs_are_curls_that_go_through_the_front_where_there_is_one() -> None:
    outputs = transformed()["Outputs"]
    for name, path in (("TryChat", "/chat/stream"), ("TryRun", "/runs")):
        text, given = outputs[name]["Value"]["Fn::Sub"]
        assert text.startswith("curl ")
        assert path in text
        assert given["Base"]["Fn::If"][0] == "UseCloudFront"


def test_in_a_vpc_chats_stream_through_a_rest_api() -> None:
    made = standing(SubnetIds="subnet-1", SecurityGroupIds="sg-1")
    method = made["ChatApiMethod"]["Properties"]
    assert method["Integration"]["ResponseTransferMode"] == "STREAM"
    assert method["Integration"]["Uri"]["Fn::Sub"].endswith(
        "-chat:live/response-streaming-invocations"
    )
    assert method["HttpMethod"] == "ANY"
    allowed = made["ChatApiPermission"]["Properties"]
    assert allowed["FunctionName"] == {"Ref": "ChatAliaslive"}
    assert allowed["Principal"] == "apigateway.amazonaws.com"
    for name in NAMES:
        assert function(name)["VpcConfig"]["Fn::If"][0] == "InVpc"


def test_a_changed_api_is_deployed_to_its_stage() -> None:
    """A deployment is a snapshot that is taken once: another API needs another logical id."""
    shown = {name: body["Properties"] for name, body in read_template()["Resources"].items()
             if name in ("ChatApi", "ChatApiPath", "ChatApiMethod")}  # fmt: skip
    assert len(shown) == 3
    digest = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:8]
    assert list(resources("AWS::ApiGateway::Deployment")) == [f"ChatApiDeployment{digest}"]
    stage = resources("AWS::ApiGateway::Stage")["ChatApiStage"]
    assert stage["DeploymentId"] == {"Ref": f"ChatApiDeployment{digest}"}


def test_in_a_vpc_nobody_reaches_chat_but_through_that_api() -> None:
    made = standing(SubnetIds="subnet-1", SecurityGroupIds="sg-1")
    assert [n for n, body in made.items() if body["Type"] == "AWS::Lambda::Url"] == ["GatewayUrl"]
    assert {alias for alias, _ in public(made)} == {"GatewayAliaslive"}
    assert not [n for n, body in standing().items() if body["Type"].startswith("AWS::ApiGateway")]


def test_arm64_is_the_default_and_one_parameter_says_otherwise() -> None:
    template = read_template()
    assert template["Parameters"]["Architecture"]["Default"] == "arm64"
    for name in NAMES:
        assert function(name)["Architectures"] == [{"Ref": "Architecture"}]
        assert function(name)["SnapStart"] == {"ApplyOn": {"Ref": "SnapStart"}}
    for body in template["Resources"].values():
        if body["Type"] in ("AWS::Serverless::LayerVersion", "AWS::Serverless::Function"):
            folder = body["Metadata"]["WorkingDirectory"]["Fn::Sub"]
            assert folder == "local/aws/targets/${Architecture}"
    allowed = template["Parameters"]["Architecture"]["AllowedValues"]
    assert {p.name for p in (ROOT / "local/aws/targets").iterdir()} == set(allowed)


def test_every_function_logs_to_a_group_that_forgets() -> None:
    groups = resources("AWS::Logs::LogGroup")
    for name in NAMES:
        assert function(name)["LoggingConfig"] == {"LogGroup": {"Ref": f"{name}Logs"}}
        assert groups[f"{name}Logs"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


ALARMS = {
    **{f"{name}Errors": ("AWS/Lambda", "Errors") for name in NAMES},
    **{f"{name}Throttles": ("AWS/Lambda", "Throttles") for name in NAMES if name != "Setup"},
    "ChatFailed": ("Lambent", "ChatRequestsFailed"),
    "GatewayFailed": ("Lambent", "GatewayRequestsFailed"),
    "StreamsBroken": ("Lambent", "StreamsBroken"),
    "PollerSilent": ("AWS/Lambda", "Invocations"),
    "DueLag": ("Lambent", "DueLagSeconds"),
    "Unavailable": ("Lambent", "RequestsUnavailable"),
    "BreakerOpen": ("Lambent", "BreakerOpened"),
    "StuckRuns": ("Lambent", "SlicesWithoutProgress"),
    "DeliveriesDead": ("Lambent", "DeliveriesDeadLettered"),
    "DeadInvokes": ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
}


def watched(alarm: dict[str, Any]) -> tuple[str, str]:
    """The namespace and the name of what it watches; of a share, of what is counted."""
    of = alarm["Metrics"][0]["MetricStat"]["Metric"] if "Metrics" in alarm else alarm
    return of["Namespace"], of["MetricName"]


def test_alarms_watch_what_an_operator_must_know() -> None:
    alarms = resources("AWS::CloudWatch::Alarm")
    assert {n: watched(a) for n, a in alarms.items()} == ALARMS
    # No value means that no poller was there, or that none saw the store.
    blind = {n for n, a in alarms.items() if a["TreatMissingData"] == "breaching"}
    assert blind == {"PollerSilent", "DueLag"}
    assert all("Poller" in transformed()["Resources"][name]["DependsOn"] for name in blind)
    assert alarms["PollerSilent"]["ComparisonOperator"] == "LessThanThreshold"
    for alarm in alarms.values():
        assert alarm["AlarmDescription"]
        assert alarm["AlarmActions"]["Fn::If"][0] == alarm["OKActions"]["Fn::If"][0]


def test_a_metric_that_is_watched_is_one_that_is_written() -> None:
    """Else an alarm is silent for ever: nobody misses a metric that never was."""
    written = {str(metric) for metric in Metric}
    (dashboard,) = resources("AWS::CloudWatch::Dashboard").values()
    shown = set(re.findall(r'"Lambent", "(\w+)"', dashboard["DashboardBody"]["Fn::Sub"]))
    watched = {name for namespace, name in ALARMS.values() if namespace == "Lambent"}
    assert watched | shown <= written


def test_the_dashboard_shows_every_metric_that_is_written() -> None:
    (dashboard,) = resources("AWS::CloudWatch::Dashboard").values()
    shown = re.findall(r'"Lambent", "(\w+)"', dashboard["DashboardBody"]["Fn::Sub"])
    assert sorted(shown) == sorted(Metric)


def test_the_readme_says_what_each_alarm_means() -> None:
    readme = (ROOT / "README.md").read_text()
    for alarm in resources("AWS::CloudWatch::Alarm").values():
        name = alarm["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
        one_of_many = re.sub(r"^\w+-(errors|throttles|failed)$", r"<function>-\1", name)
        assert f"| `{one_of_many}` |" in readme


def test_the_readme_says_how_an_alarm_on_what_is_kept_ends() -> None:
    """A message is there until somebody takes it away, and the alarm rings for as long."""
    readme = (ROOT / "README.md").read_text()
    kept = [a for a in resources("AWS::CloudWatch::Alarm").values()
            if a.get("MetricName") == "ApproximateNumberOfMessagesVisible"]  # fmt: skip
    assert len(kept) == 1
    for alarm in kept:
        name = alarm["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
        (row,) = re.findall(rf"^\| `{name}` \|.*$", readme, re.M)
        assert "purge" in row


def test_the_dashboard_is_json_once_its_names_are_filled_in() -> None:
    (dashboard,) = resources("AWS::CloudWatch::Dashboard").values()
    body = re.sub(r"\$\{[^}]*\}", "x", dashboard["DashboardBody"]["Fn::Sub"])
    assert json.loads(body)["widgets"]


def test_nothing_secret_is_a_default_or_an_output() -> None:
    template = transformed()
    hidden = {n for n, body in template["Parameters"].items() if body.get("NoEcho")}
    assert {"MongoUri", "PostgresDsn", "OllamaApiKey", "OriginSecret"} <= hidden
    assert not any(template["Parameters"][name].get("Default") for name in hidden)
    shown = json.dumps(template["Outputs"])
    assert not any(f'"{name}"' in shown or f"${{{name}}}" in shown for name in hidden)
