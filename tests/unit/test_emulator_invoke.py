"""The Invoke API of the emulator, asked by boto3 itself."""

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.unit.emulator_toys import STREAMING, Toys, eventually

ECHO = """
def handler(event, context):
    print("got", event)
    if event == "fail":
        raise ValueError("on purpose")
    custom = context.client_context.custom if context.client_context else None
    return {"event": event, "arn": context.invoked_function_arn, "custom": custom}
"""


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


def client_for(url: str) -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"max_attempts": 0}, read_timeout=30),
    )


async def call(url: str, ask: Callable[[Any], Any]) -> Any:
    """Run `ask` with a boto3 client in a thread; a client is closed after its use."""

    def work() -> Any:
        client = client_for(url)
        try:
            return ask(client)
        finally:
            client.close()

    return await asyncio.to_thread(work)


def invoke(client: Any, payload: Any, **more: Any) -> tuple[dict[str, Any], Any]:
    request = {"FunctionName": "EchoFunction", "Payload": json.dumps(payload)} | more
    answer = client.invoke(**request)
    with answer["Payload"] as body:
        return answer, json.loads(body.read() or b"null")


async def test_request_response_returns_the_answer(toys: Toys) -> None:
    async with toys.add("echo", ECHO, AutoPublishAlias="live").run() as emulator:
        answer, body = await call(
            emulator.invoke_url, lambda c: invoke(c, {"a": "é"}, Qualifier="live")
        )
    assert answer["StatusCode"] == 200
    assert answer["ExecutedVersion"] == "1"
    assert "FunctionError" not in answer
    assert body["event"] == {"a": "é"}
    assert body["arn"].endswith(":function:EchoFunction:live")


@pytest.mark.parametrize(
    "name",
    [
        "echo",
        "EchoFunction:live",
        "arn:aws:lambda:us-east-1:123456789012:function:EchoFunction:live",
        "123456789012:function:EchoFunction",
    ],
)
async def test_a_function_has_all_of_awss_names(toys: Toys, name: str) -> None:
    async with toys.add("echo", ECHO, AutoPublishAlias="live").run() as emulator:
        _, body = await call(emulator.invoke_url, lambda c: invoke(c, 1, FunctionName=name))
    assert body["event"] == 1


NUDGING = """
import os, boto3
def handler(event, context):
    lambda_ = boto3.client("lambda", endpoint_url=os.environ["AWS_ENDPOINT_URL_LAMBDA"])
    try:
        lambda_.invoke(FunctionName=event, Payload=b"1")["Payload"].read()
    except Exception as error:
        return str(error)
"""


async def test_a_function_invokes_only_what_its_role_grants(toys: Toys) -> None:
    toys.add("echo", ECHO, AutoPublishAlias="live")
    toys.add("nudging", NUDGING, Role={"Fn::GetAtt": ["Role", "Arn"]})
    echo = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:EchoFunction"
    grant = {"Effect": "Allow", "Action": ["lambda:InvokeFunction"],
             "Resource": [{"Fn::Sub": f"{echo}:live"}]}  # fmt: skip
    policy = {"PolicyName": "nudges", "PolicyDocument": {"Statement": [grant]}}
    toys.resources["Role"] = {"Type": "AWS::IAM::Role", "Properties": {"Policies": [policy]}}
    async with toys.run() as emulator:
        for name, refused in (("EchoFunction:live", False), ("EchoFunction", True)):
            _, said = await call(
                emulator.invoke_url,
                lambda c, name=name: invoke(c, name, FunctionName="NudgingFunction"),
            )
            assert ("not authorized" in str(said)) is refused, said


async def test_a_function_error_comes_with_its_header_and_log(toys: Toys) -> None:
    async with toys.add("echo", ECHO).run() as emulator:
        answer, body = await call(emulator.invoke_url, lambda c: invoke(c, "fail", LogType="Tail"))
    assert answer["FunctionError"] == "Unhandled"
    assert (body["errorType"], body["errorMessage"]) == ("ValueError", "on purpose")
    assert "got fail" in base64.b64decode(answer["LogResult"]).decode()


async def test_the_client_context_reaches_the_function(toys: Toys) -> None:
    context = base64.b64encode(json.dumps({"custom": {"k": "v"}}).encode()).decode()
    async with toys.add("echo", ECHO).run() as emulator:
        _, body = await call(emulator.invoke_url, lambda c: invoke(c, 1, ClientContext=context))
    assert body["custom"] == {"k": "v"}


async def test_errors_have_awss_shape(toys: Toys) -> None:
    def codes(client: Any) -> list[tuple[str, int]]:
        found = []
        for more in (
            {"FunctionName": "nobody"},
            {"Qualifier": "no-such-alias"},
            {"Payload": b"{not json"},
            {"Payload": b'"' + b"x" * 6_291_556 + b'"'},
            {"InvocationType": "Event", "Payload": b'"' + b"x" * 1_048_576 + b'"'},
        ):
            with pytest.raises(ClientError) as caught:
                invoke(client, 1, **more)
            response = caught.value.response
            found.append(
                (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"])
            )
        return found

    async with toys.add("echo", ECHO).run() as emulator:
        found = await call(emulator.invoke_url, codes)
    assert found == [
        ("ResourceNotFoundException", 404),
        ("ResourceNotFoundException", 404),
        ("InvalidRequestContentException", 400),
        ("RequestTooLargeException", 413),
        ("RequestTooLargeException", 413),
    ]


async def test_throttling_is_too_many_requests(toys: Toys) -> None:
    async with toys.add("echo", ECHO, ReservedConcurrentExecutions=0).run() as emulator:
        with pytest.raises(ClientError) as caught:
            await call(emulator.invoke_url, lambda c: invoke(c, 1))
    assert caught.value.response["Error"]["Code"] == "TooManyRequestsException"


async def test_an_answer_over_six_megabytes_is_a_function_error(toys: Toys) -> None:
    source = 'def handler(event, context):\n    return "x" * 6_291_556\n'
    async with toys.add("echo", source).run() as emulator:
        answer, body = await call(emulator.invoke_url, lambda c: invoke(c, 1))
    assert answer["FunctionError"] == "Unhandled"
    assert body["errorType"] == "Function.ResponseSizeTooLarge"


async def test_a_streamed_invoke_yields_chunks_as_they_come(toys: Toys) -> None:
    source = """
    import asyncio
    async def handler(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body"})
    """
    event = {"version": "2.0", "rawPath": "/", "rawQueryString": "", "headers": {}}
    http = {"method": "GET", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
    event["requestContext"] = {"http": http}

    def ask(client: Any) -> list[Any]:
        answer = client.invoke_with_response_stream(
            FunctionName="stream", Payload=json.dumps(event)
        )
        with closing(answer["EventStream"]) as stream:
            return list(stream)

    async with toys.add("stream", source, env=STREAMING).run() as emulator:
        events = await call(emulator.invoke_url, ask)
    chunks = [e["PayloadChunk"]["Payload"] for e in events if "PayloadChunk" in e]
    prelude, _, body = b"".join(chunks).partition(b"\0" * 8)
    assert json.loads(prelude)["statusCode"] == 200
    assert body == b"onetwo"
    assert chunks[-1] == b"two"
    assert "ErrorCode" not in events[-1]["InvokeComplete"]


async def test_a_streamed_invoke_that_fails_says_so_at_its_end(toys: Toys) -> None:
    def ask(client: Any) -> list[Any]:
        answer = client.invoke_with_response_stream(FunctionName="echo", Payload='"fail"')
        with closing(answer["EventStream"]) as stream:
            return list(stream)

    async with toys.add("echo", ECHO).run() as emulator:
        (complete,) = await call(emulator.invoke_url, ask)
    assert complete["InvokeComplete"]["ErrorCode"] == "ValueError"
    assert "on purpose" in complete["InvokeComplete"]["ErrorDetails"]


async def test_an_event_is_accepted_and_run_later(toys: Toys) -> None:
    async with toys.add("echo", ECHO).run() as emulator:
        answer, _ = await call(
            emulator.invoke_url, lambda c: invoke(c, {"n": 1}, InvocationType="Event")
        )
        assert answer["StatusCode"] == 202
        await toys.logged("echo", "got {'n': 1}")


async def test_a_failing_event_is_retried_twice_and_then_set_aside(toys: Toys) -> None:
    async with toys.add("echo", ECHO).run(retry_delays_s=(0.1, 0.1)) as emulator:
        answer, _ = await call(
            emulator.invoke_url, lambda c: invoke(c, "fail", InvocationType="Event")
        )
        await eventually(lambda: bool(toys.failures("echo")))
    (record,) = toys.failures("echo")
    assert record["requestPayload"] == "fail"
    assert record["requestContext"]["condition"] == "RetriesExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 3
    request_id = answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]
    assert toys.log("echo").count(f"START RequestId: {request_id}") == 3


async def test_the_template_says_how_often_and_where_to(toys: Toys) -> None:
    arn = "arn:aws:lambda:us-east-1:123456789012:function:CatcherFunction"
    policy = {
        "MaximumRetryAttempts": 0,
        "DestinationConfig": {"OnFailure": {"Type": "Lambda", "Destination": arn}},
    }
    toys.add("echo", ECHO, EventInvokeConfig=policy).add("catcher", ECHO)
    async with toys.run() as emulator:
        await call(emulator.invoke_url, lambda c: invoke(c, "fail", InvocationType="Event"))
        await toys.logged("catcher", "RetriesExhausted")
    assert toys.log("echo").count("START") == 1
    assert not toys.failures("echo")


async def test_events_wait_for_a_free_environment(toys: Toys) -> None:
    async with toys.add("echo", ECHO, ReservedConcurrentExecutions=1).run() as emulator:

        def ask(client: Any) -> None:
            for number in range(10):
                invoke(client, number, InvocationType="Event")

        await call(emulator.invoke_url, ask)
        await eventually(lambda: toys.log("echo").count("got") == 10)
        assert len(emulator.pids()["echo"]) == 1


async def test_get_function_describes_it(toys: Toys) -> None:
    async with toys.add("echo", ECHO, Timeout=7).run() as emulator:
        found = await call(emulator.invoke_url, lambda c: c.get_function(FunctionName="echo"))
    assert found["Configuration"]["FunctionName"] == "EchoFunction"
    assert found["Configuration"]["Timeout"] == 7
