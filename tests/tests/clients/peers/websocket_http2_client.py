"""WebSockets on streams of HTTP/2 (RFC 8441): the streams by h2, the frames on them by
websockets. Usage: websocket_http2_client.py PORT; says what it checked, or fails."""

import os
import socket
import sys

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from websockets.frames import Close, Opcode
from websockets.protocol import CLIENT, Protocol

PATIENCE = 30


def check(what, good):
    if not good:
        raise AssertionError(what)


class Stream:
    def __init__(self, session, number):
        self.session = session
        self.number = number
        self.status = None
        self.frames = Protocol(CLIENT, max_size=None)
        self.got = []
        self.unsent = bytearray()
        self.ended = False

    def receive(self):
        """The next frame."""
        self.session.wait(lambda: self.got or self.ended)
        check("a frame comes", self.got)
        return self.got.pop(0)

    def close(self, code, reason):
        self.frames.send_close(code, reason)
        self.session.wait(lambda: self.ended)


class Session:
    """A connection and the WebSockets on it."""

    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", int(sys.argv[1])), PATIENCE)
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.streams = {}
        self.wait(lambda: self.http.remote_settings.enable_connect_protocol == 1)

    def open(self, path):
        number = self.http.get_next_available_stream_id()
        fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")]
        fields += [(":authority", "a.test"), (":path", path), ("sec-websocket-version", "13")]
        self.http.send_headers(number, fields)
        stream = self.streams[number] = Stream(self, number)
        self.wait(lambda: stream.status is not None)
        check(f"it is open: {stream.status}", stream.status == "200")
        return stream

    def wait(self, is_so):
        self.send()
        while not is_so():
            data = self.socket.recv(65536)
            check("the connection stays", data)
            for event in self.http.receive_data(data):
                self.take(event)
            self.send()

    def take(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, DataReceived):
            self.http.acknowledge_received_data(event.flow_controlled_length, stream.number)
            stream.frames.receive_data(event.data)
            stream.got += stream.frames.events_received()
        elif isinstance(event, ResponseReceived):
            stream.status = dict(event.headers)[":status"]
        elif isinstance(event, StreamEnded):
            stream.ended = True
            # As a client closes its connection when the server has.
            self.http.end_stream(stream.number)
        elif isinstance(event, StreamReset):
            check(f"no stream is reset: {event}", False)

    def send(self):
        for number, stream in self.streams.items():
            stream.unsent += b"".join(stream.frames.data_to_send())
            while stream.unsent:
                room = self.http.local_flow_control_window(number)
                part = bytes(stream.unsent[: min(room, self.http.max_outbound_frame_size)])
                if not part:
                    break
                self.http.send_data(number, part)
                del stream.unsent[: len(part)]
        self.socket.sendall(self.http.data_to_send())


def messages_both_ways():
    stream = Session().open("/")
    for message in [b"text", b"", "\u00e4\u20ac".encode()]:
        stream.frames.send_text(message)
        frame = stream.receive()
        check(f"{message!r} comes back", (frame.opcode, frame.data) == (Opcode.TEXT, message))
    stream.frames.send_binary(b"bytes\x00\xff")
    frame = stream.receive()
    check("bytes come back", (frame.opcode, frame.data) == (Opcode.BINARY, b"bytes\x00\xff"))


def messages_of_a_mebibyte_on_two_streams():
    session = Session()
    streams = [session.open("/"), session.open("/")]
    message = os.urandom(1 << 20)
    for _ in range(4):
        for stream in streams:
            stream.frames.send_binary(message)
    for _ in range(4):
        for stream in streams:
            check("1 MiB comes back whole", stream.receive().data == message)


def the_server_speaks_first():
    stream = Session().open("/talk")
    got = [stream.receive().data for _ in range(100)]
    check("in order", got == [b"%d" % number for number in range(100)])
    check("a ping", stream.receive().opcode is Opcode.PING)
    check("our pong came", Close.parse(stream.receive().data).code == 1000)


def pings():
    stream = Session().open("/")
    stream.frames.send_ping(b"data")
    frame = stream.receive()
    check("a pong comes", (frame.opcode, frame.data) == (Opcode.PONG, b"data"))


def close_codes():
    session = Session()
    stream = session.open("/bye")
    close = Close.parse(stream.receive().data)
    check(f"of the server: {close}", (close.code, close.reason) == (4001, "enough"))
    session.wait(lambda: stream.ended)
    stream = session.open("/remember")
    stream.frames.send_text(b"x")
    check("an echo", stream.receive().data == b"x")
    stream.close(4002, "done here")
    said = session.open("/last-close").receive().data
    check(f"of the client: {said}", said == b"4002 done here")


def a_server_that_vanishes():
    session = Session()
    stream = session.open("/vanish")
    check("what came before", stream.receive().data == b"soon gone")
    session.wait(lambda: stream.ended)
    check("no close frame", not stream.got)


CHECKS = [
    messages_both_ways,
    messages_of_a_mebibyte_on_two_streams,
    the_server_speaks_first,
    pings,
    close_codes,
    a_server_that_vanishes,
]
for function in CHECKS:
    try:
        function()
    except Exception as error:
        sys.exit(f"{function.__name__}: {error!r}")
    print(f"good: {function.__name__}", flush=True)
