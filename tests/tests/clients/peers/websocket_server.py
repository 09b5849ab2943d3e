"""A WebSocket server. Usage: websocket_server.py PORT"""

import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

last = {"close": "none"}
closed = threading.Event()


def handle(connection):
    path = connection.request.path
    if path == "/last-close":
        closed.wait(10)
        connection.send(last["close"])
        return
    if path == "/bye":
        connection.close(4001, "enough")
        return
    if path == "/vanish":
        connection.send("soon gone")
        connection.socket.shutdown(2)
        return
    if path == "/talk":
        # Speaks first, and pings.
        for number in range(100):
            connection.send(f"{number}")
        if not connection.ping().wait(10):
            connection.close(4009, "no pong")
        return
    try:
        for message in connection:
            connection.send(message)
    except ConnectionClosed:
        pass
    received = connection.protocol.close_rcvd
    if path == "/remember":
        last["close"] = f"{received.code} {received.reason}" if received else "broken"
        closed.set()


with serve(handle, "127.0.0.1", int(sys.argv[1]), max_size=None) as server:
    server.serve_forever()
