"""A WebSocket client. Usage: websocket_client.py PORT; says what it checked, or fails."""

import os
import sys
from concurrent import futures

from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import connect

URL = f"ws://127.0.0.1:{sys.argv[1]}"
PATIENCE = 30


def open_at(path, **options):
    return connect(URL + path, max_size=None, open_timeout=PATIENCE, proxy=None, **options)


def check(what, good):
    if not good:
        raise AssertionError(what)


def messages_both_ways():
    with open_at("/") as socket:
        for message in ["text", "", "\u00e4\u20ac", b"bytes\x00\xff", b""]:
            socket.send(message)
            check(f"{message!r} comes back", socket.recv(PATIENCE) == message)


def messages_of_a_mebibyte():
    for compression in ["deflate", None]:
        with open_at("/", compression=compression) as socket:
            message = os.urandom(1 << 20)
            for _ in range(8):
                socket.send(message)
            for _ in range(8):
                check("1 MiB comes back whole", socket.recv(PATIENCE) == message)


def fragments():
    with open_at("/") as socket:
        socket.send(iter(["a" * 1000] * 100))
        check("fragments are one message", socket.recv(PATIENCE) == "a" * 100000)


def the_server_speaks_first():
    with open_at("/talk") as socket:
        got = [socket.recv(PATIENCE) for _ in range(100)]
        check("in order", got == [str(number) for number in range(100)])
        try:
            socket.recv(PATIENCE)
        except ConnectionClosed as closed:
            check(f"our pong came: {closed}", closed.rcvd and closed.rcvd.code == 1000)


def pings():
    with open_at("/") as socket:
        check("a pong comes", socket.ping().wait(PATIENCE))
        check("with data", socket.ping(b"data").wait(PATIENCE))


def close_codes():
    with open_at("/bye") as socket:
        try:
            socket.recv(PATIENCE)
            check("the end is told", False)
        except ConnectionClosed as closed:
            check(f"of the server: {closed}", (closed.rcvd.code, closed.rcvd.reason) == (4001, "enough"))
    with open_at("/remember") as socket:
        socket.send("x")
        socket.recv(PATIENCE)
        socket.close(4002, "done here")
    with open_at("/last-close") as socket:
        code = socket.recv(PATIENCE)
        check(f"of the client: {code}", code == "4002 done here")


def a_server_that_vanishes():
    with open_at("/vanish") as socket:
        check("what came before", socket.recv(PATIENCE) == "soon gone")
        try:
            socket.recv(PATIENCE)
            check("the end is told", False)
        except ConnectionClosedError as closed:
            check(f"without a close frame: {closed}", closed.rcvd is None)


def many_at_once():
    def one(number):
        with open_at("/") as socket:
            for step in range(20):
                socket.send(f"{number} {step}")
                check("its own echo", socket.recv(PATIENCE) == f"{number} {step}")

    with futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(40)))


CHECKS = [
    messages_both_ways,
    messages_of_a_mebibyte,
    fragments,
    the_server_speaks_first,
    pings,
    close_codes,
    a_server_that_vanishes,
    many_at_once,
]
for function in CHECKS:
    try:
        function()
    except Exception as error:
        sys.exit(f"{function.__name__}: {error!r}")
    print(f"good: {function.__name__}", flush=True)
