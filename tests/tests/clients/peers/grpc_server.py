"""A gRPC server without generated code: messages are bytes. Usage: grpc_server.py PORT"""

import sys
import threading
import time
from concurrent import futures

import grpc

cancelled = threading.Semaphore(0)


def unary(request, context):
    context.send_initial_metadata((("x-initial", "i"),))
    context.set_trailing_metadata((("x-trailer", "t"), ("x-raw-bin", b"\x00\xff")))
    return request[::-1]


def fail(request, context):
    context.set_trailing_metadata((("x-trailer", "why"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100 % sure")


def download(request, context):
    count, size = map(int, request.split())
    for number in range(count):
        yield bytes([number % 256]) * size


def upload(requests, context):
    count = size = 0
    for request in requests:
        count += 1
        size += len(request)
    return b"%d %d" % (count, size)


def chat(requests, context):
    for request in requests:
        yield b"echo " + request


def half(requests, context):
    """Answers and ends before the client has."""
    yield next(requests)
    context.abort(grpc.StatusCode.OUT_OF_RANGE, "enough")


def slow(request, context):
    context.add_callback(cancelled.release)
    context.send_initial_metadata(())
    while context.is_active():
        time.sleep(0.02)
    return b""


def count_cancelled(request, context):
    """Waits until a slow call was cancelled, as the server sees it."""
    return b"yes" if cancelled.acquire(timeout=10) else b"no"


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Download": grpc.unary_stream_rpc_method_handler(download),
    "Upload": grpc.stream_unary_rpc_method_handler(upload),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Half": grpc.stream_stream_rpc_method_handler(half),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Cancelled": grpc.unary_unary_rpc_method_handler(count_cancelled),
}

server = grpc.server(
    futures.ThreadPoolExecutor(64),
    options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
)
handler = grpc.method_handlers_generic_handler("t.T", HANDLERS)
server.add_generic_rpc_handlers((handler,))
if not server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}"):
    sys.exit("the port is taken")
server.start()
server.wait_for_termination()
