"""The workload's program in tests: it says who it is and what it was asked.  Standard library only.

    harness_program.py NAME SERVICE VERSION LOG PORT[/tcp]...

HTTP answers are JSON: workload, service, version, port, method, path, headers (as arrived), body, peer.  On
loopback port 9901 a POST changes how it behaves: ``{"delay": seconds, "status": code, "hang": true, "abort": true,
"body": text, "headers": {...}, "times": how many requests it holds for}``; what it was told before is forgotten.
"""

import json
import socket
import socketserver
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, SERVICE, VERSION, LOG = sys.argv[1:5]
CONTROL_PORT = 9901
behaviour = {}
lock = threading.Lock()
log = open(LOG, "a", buffering=1)  # noqa: SIM115, PTH123 - open as long as the program runs


def current():
    with lock:
        found = dict(behaviour)
        if "times" in behaviour:
            behaviour["times"] -= 1
            if behaviour["times"] <= 0:
                behaviour.clear()
        return found


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class Program(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer
    disable_nagle_algorithm = True

    def answer(self):
        how = current()
        begun = time.time()
        length = int(self.headers.get("content-length") or 0)
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        headers = [[k.lower(), v] for k, v in self.headers.items()]
        said = {
            "workload": NAME,
            "service": SERVICE,
            "version": VERSION,
            "port": self.server.server_address[1],
            "method": self.command,
            "path": self.path,
            "headers": headers,
            "body": body.decode(errors="replace"),
            "peer": self.client_address[0],
        }
        log.write(json.dumps({"time": begun, **said}) + "\n")
        if how.get("hang"):
            threading.Event().wait(600)
        if how.get("abort"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        time.sleep(how.get("delay", 0))
        payload = how.get("body", json.dumps(said)).encode()
        self.send_response(how.get("status", 200))
        own = {"content-type": "application/json", "x-instance": NAME, "x-version": VERSION}
        for key, value in {**own, **how.get("headers", {})}.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = answer

    def log_message(self, *_):
        pass


class Control(BaseHTTPRequestHandler):
    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with lock:
            behaviour.clear()
            behaviour.update(wanted)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        log.write(
            json.dumps({"time": time.time(), "workload": NAME, "tcp": True, "peer": self.client_address[0]}) + "\n"
        )
        self.request.sendall(f"{NAME}\n".encode())
        while data := self.request.recv(65536):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


for wanted in sys.argv[5:]:
    number, _, kind = wanted.partition("/")
    made = (
        EchoServer(("0.0.0.0", int(number)), Echo) if kind == "tcp" else Server(("0.0.0.0", int(number)), Program)
    )
    threading.Thread(target=made.serve_forever, daemon=True).start()
Server(("127.0.0.1", CONTROL_PORT), Control).serve_forever()
