"""The agent, as it runs on nodes, against small servers: what it sends, what it says, when it stops."""

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from testbed.traffic import HostConnection, Request, TrafficFailed, TrafficSpec, send
from testbed.traffic.local import AGENT_ON_HOST
from testbed.waiting import NotYet, wait_until


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        self.server.seen.append(
            (self.headers["x-testbed-request"], self.path, dict(self.headers), self.client_address[1])
        )
        if self.path == "/slow":
            time.sleep(0.3)
        if self.path == "/hang":
            self.server.released.wait(10)
        if self.path == "/cut":
            self.close_connection = True
            return
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length) or b"hello"
        self.send_response(503 if self.path == "/503" else 200)
        self.send_header("x-version", "v1")
        self.send_header("x-other", "kept")
        if self.path == "/chunked":
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for part in (b"hel", b"lo"):
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path == "/until-close":
            self.close_connection = True
        else:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_POST = do_HEAD = do_GET

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    def handle_error(self, *_):
        """An agent that has enough goes away in the middle of things."""


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as made:
        made.daemon_threads = True
        made.seen, made.released = [], threading.Event()
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        made.released.set()
        made.shutdown()


def spec(server, *requests, **options) -> TrafficSpec:
    port = server.server_address[1] if hasattr(server, "server_address") else server
    options.setdefault("count", 12)
    return TrafficSpec("r1", "127.0.0.1", port, "web:80", requests or (Request(),), **options)


def collect(wanted: TrafficSpec):
    host = HostConnection()
    with send(wanted, host, host.argv) as run:
        return list(run), run


def test_every_request_arrives_once_with_its_id_and_comes_back_in_order(server):
    samples, run = collect(spec(server, concurrency=4, count=40))
    assert [s.seq for s in samples] == list(range(40))
    assert sorted(i for i, *_ in server.seen) == sorted(f"r1-{i}" for i in range(40))
    assert all(s.status == 200 and s.body == "hello" and s.headers == {"x-version": "v1"} for s in samples)
    assert run.summary.complete
    assert run.summary.sent == 40


def test_a_slow_answer_holds_back_those_sent_after_it(server):
    """Samples come in the order of sending: a slow version must not be counted later than a quick one."""
    samples, _ = collect(spec(server, Request(path="/slow"), Request(path="/"), concurrency=4))
    assert [s.seq for s in samples] == list(range(12))
    ended = [s.sent + s.took for s in samples]
    assert ended != sorted(ended)


def test_reuse_keeps_as_many_connections_as_there_are_requests_under_way(server):
    assert {s.connection for s in collect(spec(server, concurrency=3, count=30))[0]} == {1, 2, 3}


def test_without_reuse_every_request_has_a_connection_of_its_own(server):
    samples, _ = collect(spec(server, reuse=False))
    assert sorted(s.connection for s in samples) == list(range(1, 13))
    assert len({port for *_, port in server.seen}) == 12


def test_requests_are_varied_in_turn_and_named_headers_are_kept(server):
    kinds = (
        Request(path="/a", headers=(("x-reader", "k0"),), key="k0"),
        Request("POST", "/b", body="said", key="k1"),
    )
    samples, _ = collect(spec(server, *kinds, count=4, keep=("x-other",), concurrency=1))
    assert [s.variant for s in samples] == [0, 1, 0, 1]
    assert [s.body for s in samples] == ["hello", "said"] * 2
    assert samples[0].headers["x-other"] == "kept"
    assert server.seen[0][2]["x-reader"] == "k0"
    assert server.seen[0][2]["host"] == "web:80"


@pytest.mark.parametrize("path", ["/chunked", "/until-close", "/503"])
def test_bodies_are_read_however_they_end(server, path):
    samples, _ = collect(spec(server, Request(path=path)))
    assert {(s.status, s.body, s.error) for s in samples} == {(503 if path == "/503" else 200, "hello", "")}


def test_a_head_request_has_no_body_to_wait_for(server):
    assert {s.body for s in collect(spec(server, Request("HEAD")))[0]} == {""}


def test_an_open_loop_sends_on_time_whatever_happens(server):
    samples, _ = collect(spec(server, Request(path="/slow"), rate=50, count=25))
    assert [round(s.sent, 2) for s in samples] == [i / 50 for i in range(25)]
    assert max(s.connection for s in samples) > 10  # a closed loop would have waited
    assert min(s.took for s in samples) >= 0.3


def test_a_request_without_an_answer_ends_by_the_callers_own_timeout(server):
    samples, _ = collect(spec(server, Request(path="/hang"), count=3, concurrency=3, timeout=0.4))
    assert [s.error for s in samples] == ["no answer within 0.4 s"] * 3
    assert all(s.status == 0 and 0.35 < s.took < 20 for s in samples)


def test_a_connection_that_is_cut_or_refused_is_told_apart(server):
    samples, _ = collect(spec(server, Request(path="/cut"), count=2))
    assert {s.error for s in samples} == {"the connection was closed before the answer"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refused, _ = collect(spec(taken.getsockname()[1], count=2))
    assert {s.error for s in refused} == {"Connection refused"}


def test_it_stops_soon_after_nobody_listens_any_more(server):
    host = HostConnection()
    with send(spec(server, count=100_000), host, host.argv) as run:
        seen = [sample for sample, _ in zip(run, range(50), strict=False)]
    assert len(seen) == 50
    assert len(server.seen) < 100_000


def test_an_agent_that_dies_is_the_labs_trouble():
    with pytest.raises(TrafficFailed, match="the agent ended after 0 of 12"):
        collect_with(["true"])
    with pytest.raises(TrafficFailed, match="the agent said"):
        collect_with(["echo", "nonsense"])


def collect_with(argv):
    with send(spec(1), HostConnection(), argv) as run:
        return list(run)


def test_a_name_that_does_not_resolve_is_said():
    host = HostConnection()
    wanted = TrafficSpec("r1", "nowhere.invalid", 80, "web", (Request(),), 1)
    with pytest.raises(TrafficFailed, match=r"nowhere\.invalid"), send(wanted, host, host.argv) as run:
        list(run)


def test_it_imports_little(server):
    """An emulated machine takes seconds to import what is not needed; site packages are not looked for."""
    argv = [sys.executable, "-IS", "-X", "importtime", str(AGENT_ON_HOST)]
    done = subprocess.run(argv, input=spec(server.server_address[1]).to_json(), capture_output=True, check=True)
    imported = {line.rpartition(b"|")[2].strip().decode() for line in done.stderr.splitlines()}
    assert "selectors" in imported
    assert not imported & {"asyncio", "http.client", "urllib.request", "ssl", "email", "logging", "typing"}


@contextmanager
def echo_program():
    """The sample service, as nodes run it."""
    program = AGENT_ON_HOST.parents[1] / "programs" / "echo.py"
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, control = one.getsockname()[1], other.getsockname()[1]
    variables = {**os.environ, "PORT": str(port), "CONTROL_PORT": str(control), "SERVICE": "echo"}
    with subprocess.Popen([sys.executable, str(program)], env=variables) as process:

        def listening():
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError as e:
                raise NotYet(str(e)) from e

        try:
            wait_until("the echo program", listening, limit=20, interval=0.05)
            yield port
        finally:
            process.terminate()


def test_a_grpc_call_is_answered_with_a_message_and_a_status_or_with_an_error():
    requests = (
        Request("POST", "/testbed.Echo/Say", body="hello"),
        Request("POST", "/testbed.Echo/Say", (("x-testbed-status", "503"),)),
        Request("POST", "/testbed.Echo/Say", body="x" * 16_000),  # several: more than a window of flow control
    )
    with echo_program() as port:
        samples, run = collect(spec(port, *requests, protocol="grpc", count=60, concurrency=12, body_bytes=20_000))
        plain, _ = collect(spec(port, requests[1], protocol="http2", count=2))
    assert run.summary.connections == 1
    said = json.loads(samples[0].body)
    assert (said["path"], said["body"], said["service"]) == ("/testbed.Echo/Say", "hello", "echo")
    assert {(s.status, s.headers["grpc-status"], s.headers["x-version"]) for s in samples[0::3]} == {
        (200, "0", "v1")
    }
    assert {(s.status, s.headers["grpc-status"], s.body) for s in samples[1::3]} == {(503, "14", "answered 503")}
    assert all(s.status == 200 for s in samples[2::3])
    assert [s.status for s in plain] == [503, 503]


def test_a_body_that_fits_no_frame_is_refused_at_the_start():
    with pytest.raises(TrafficFailed, match="16384 bytes"):
        collect(spec(1, Request("POST", body="x" * 16_384), protocol="grpc"))


@pytest.mark.parametrize(
    ("fields", "status", "body"),
    [
        ([(":status", "200"), ("grpc-status", "7"), ("grpc-message", "RBAC: access denied%21")], 403, "RBAC: access denied!"),
        ([(":status", "200"), ("grpc-status", "16")], 401, ""),
        ([(":status", "200")], 500, ""),
        ([(":status", "502")], 502, ""),
        ([(":status", "200"), ("grpc-status", "77")], 500, ""),
    ],
)  # fmt: skip
def test_a_grpc_error_has_the_http_status_that_it_stands_for(fields, status, body):
    with h2_server(fields) as port:
        samples, _ = collect(spec(port, protocol="grpc", count=1))
    assert [(s.status, s.body) for s in samples] == [(status, body)]


@contextmanager
def h2_server(fields=None):
    """Answers every stream with its own id, or with these header fields and nothing else."""
    import h2.config
    import h2.connection
    import h2.events

    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        client, _ = listener.accept()
        connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        connection.initiate_connection()
        client.sendall(connection.data_to_send())
        with client:
            while data := client.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        found = dict(event.headers)
                        if fields:
                            connection.send_headers(event.stream_id, fields, end_stream=True)
                            continue
                        answer = json.dumps([found["x-testbed-request"], found[":authority"]]).encode()
                        connection.send_headers(event.stream_id, [(":status", "200"), ("x-version", "v2")])
                        connection.send_data(event.stream_id, answer, end_stream=True)
                client.sendall(connection.data_to_send())

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_http2_carries_many_requests_over_one_connection():
    with h2_server() as port:
        samples, _ = collect(spec(port, protocol="http2", concurrency=5, count=50))
    assert [json.loads(s.body) for s in samples] == [[f"r1-{i}", "web:80"] for i in range(50)]
    assert {(s.status, s.connection, s.headers["x-version"]) for s in samples} == {(200, 1, "v2")}
