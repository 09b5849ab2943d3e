"""The server of the standard library. Usage: http_server.py PORT [VERSION]"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = sys.argv[2] if len(sys.argv) > 2 else "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/bytes":
            self.answer(200, b"b" * int(parse_qs(url.query)["n"][0]))
        elif url.path == "/chunks":
            lines = [b"%d\n" % number for number in range(1000)]
            self.send_response(200)
            if self.protocol_version == "HTTP/1.0":
                # The end of the body is that of the connection.
                self.end_headers()
                self.wfile.write(b"".join(lines))
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in lines:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")
        elif url.path == "/empty":
            self.answer(204, b"")
        elif url.path == "/close":
            self.answer(200, b"bye", [("Connection", "close")])
            self.close_connection = True
        else:
            self.answer(404, b"nothing here")

    do_HEAD = do_GET

    def do_POST(self):
        self.answer(200, self.body(), [("x-method", self.command)])

    do_PUT = do_POST

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while True:
            size = int(self.rfile.readline(), 16)
            whole += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                return whole


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
