"""Every kind of call of gRPC. Usage: grpc_client.py PORT; says what it checked, or fails."""

import sys
import time
from concurrent import futures

import grpc

channel = grpc.insecure_channel(
    f"127.0.0.1:{sys.argv[1]}",
    options=[
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # Through the proxy, whatever the environment says.
        ("grpc.enable_http_proxy", 0),
    ],
)
unary = channel.unary_unary("/t.T/Unary")
PATIENCE = 30


def check(what, good):
    if not good:
        raise AssertionError(what)


def unary_with_metadata():
    message = bytes(range(256)) * 16
    response, call = unary.with_call(message, timeout=PATIENCE, metadata=(("x-id", "7"),))
    check("the message is reversed", response == message[::-1])
    check("initial metadata", dict(call.initial_metadata()).get("x-initial") == "i")
    trailers = dict(call.trailing_metadata())
    check(f"trailers: {trailers}", trailers.get("x-trailer") == "t")
    check(f"binary trailers: {trailers}", trailers.get("x-raw-bin") == b"\x00\xff")


def large_messages():
    message = b"x" * (20 << 20)
    check("20 MiB", unary(message, timeout=PATIENCE) == message)
    check("nothing", unary(b"", timeout=PATIENCE) == b"")


def error_status():
    try:
        channel.unary_unary("/t.T/Fail")(b"", timeout=PATIENCE)
    except grpc.RpcError as error:
        check(f"code: {error.code()}", error.code() == grpc.StatusCode.FAILED_PRECONDITION)
        check(f"details: {error.details()}", error.details() == "not now: 100 % sure")
        check("trailers of errors", dict(error.trailing_metadata()).get("x-trailer") == "why")
        return
    check("an error is told", False)


def unknown_method():
    try:
        channel.unary_unary("/t.T/Missing")(b"", timeout=PATIENCE)
    except grpc.RpcError as error:
        return check(f"code: {error.code()}", error.code() == grpc.StatusCode.UNIMPLEMENTED)
    check("an unknown method is an error", False)


def server_streaming():
    stream = channel.unary_stream("/t.T/Download")
    parts = list(stream(b"200 50000", timeout=PATIENCE))
    check("200 messages", len(parts) == 200)
    check("in order", all(part == bytes([i % 256]) * 50000 for i, part in enumerate(parts)))


def client_streaming():
    stream = channel.stream_unary("/t.T/Upload")
    parts = (b"y" * 50000 for _ in range(200))
    check("all arrive", stream(parts, timeout=PATIENCE) == b"200 10000000")
    check("none arrive", stream(iter(()), timeout=PATIENCE) == b"0 0")


def bidirectional_streaming():
    """Each message is only sent once the answer to the one before is there: nothing on the
    way may hold one back."""
    answered = []

    def questions():
        for number in range(50):
            deadline = time.monotonic() + PATIENCE
            while len(answered) < number:
                check("answers come at once", time.monotonic() < deadline)
                time.sleep(0.001)
            yield b"%d" % number

    for answer in channel.stream_stream("/t.T/Chat")(questions(), timeout=PATIENCE):
        answered.append(answer)
    check("all are answered", answered == [b"echo %d" % number for number in range(50)])


def a_server_that_ends_first():
    got = []
    try:
        calls = channel.stream_stream("/t.T/Half")
        for answer in calls((b"z" * 1000 for _ in range(100000)), timeout=PATIENCE):
            got.append(answer)
    except grpc.RpcError as error:
        check(f"code: {error}", error.code() == grpc.StatusCode.OUT_OF_RANGE)
        return check("what came before the end", got == [b"z" * 1000])
    check("the end is told", False)


def deadlines_and_cancellation():
    # As a stream, because a unary call tells of initial metadata only in the end.
    slow = channel.unary_stream("/t.T/Slow")
    seen = channel.unary_unary("/t.T/Cancelled")
    # The server has a call once its initial metadata are here.
    began = time.monotonic()
    call = slow(b"", timeout=2)
    call.initial_metadata()
    check(f"code: {call}", call.code() == grpc.StatusCode.DEADLINE_EXCEEDED)
    check("in time", time.monotonic() - began < 10)
    check("the server learns of deadlines", seen(b"", timeout=PATIENCE) == b"yes")
    call = slow(b"", timeout=PATIENCE)
    call.initial_metadata()
    call.cancel()
    check("the server learns of cancellations", seen(b"", timeout=PATIENCE) == b"yes")


def many_at_once():
    with futures.ThreadPoolExecutor(20) as pool:
        messages = [b"%d" % number for number in range(1000)]
        answers = pool.map(lambda message: unary(message, timeout=PATIENCE), messages)
        check("all answers are right", list(answers) == [message[::-1] for message in messages])


CHECKS = [
    unary_with_metadata,
    large_messages,
    error_status,
    unknown_method,
    server_streaming,
    client_streaming,
    bidirectional_streaming,
    a_server_that_ends_first,
    deadlines_and_cancellation,
    many_at_once,
]
for function in CHECKS:
    try:
        function()
    except Exception as error:
        sys.exit(f"{function.__name__}: {error!r}")
    print(f"good: {function.__name__}", flush=True)
