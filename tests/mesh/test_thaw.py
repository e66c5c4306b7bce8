"""What a thaw does inside a node: it closes connections, and has a real Envoy seed its random numbers anew."""

import importlib.util
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from testbed import artifacts
from testbed.backends.guest import Guest
from testbed.backends.looking import question, question_for_program
from testbed.compiler.layout import Layout
from testbed.host.directories import cache_root
from testbed.host.namespaces import run_in
from testbed.model.topology import MeshWorkload
from testbed.pki import LabCa
from testbed.waiting import NotYet, wait_until

PROGRAM = Path(__file__).resolve().parents[2] / "images/shared/node/testbed_thaw.py"
sys.path.append(str(PROGRAM.parent))
spec = importlib.util.spec_from_file_location("testbed_thaw", PROGRAM)
thaw = importlib.util.module_from_spec(spec)
spec.loader.exec_module(thaw)

CONFIGURATION = """
static_resources:
  listeners:
  - name: tls
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - {{certificate_chain: {{filename: {folder}/chain}}, private_key: {{filename: {folder}/key}}}}
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"""


@pytest.fixture
def namespace():
    name = f"tbthaw-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield Path(f"/run/netns/{name}")
    subprocess.run(["ip", "netns", "delete", name], check=True)


def connected(listener):
    near = socket.create_connection(listener.getsockname(), timeout=5)
    far, _ = listener.accept()
    return near, far


def test_connections_are_closed_at_both_ends_and_listeners_stay(namespace):
    def work():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near, far = connected(listener)
            other, kept = connected(listener)
            with near, far, other, kept:
                closed = thaw.close_connections(other.getsockname()[1])
                for end in (near, far):
                    with pytest.raises(OSError):
                        end.sendall(b"x")
                        end.recv(1)
                kept.sendall(b"still there")
                again, end = connected(listener)
                again.close()
                end.close()
                return closed

    assert run_in(namespace, work) == 2


REDIRECT = (
    "table ip testbed { chain output { type nat hook output priority -100; tcp dport 9080 redirect to :15001; }; }"
)


def test_what_the_kernel_has_tracked_of_a_closed_connection_keeps_no_new_one_from_the_same_ports(namespace):
    """Closing one sends a reset, after which its entry is on its way out, and the next SYN begins it anew."""
    subprocess.run(["ip", "netns", "exec", namespace.name, "nft", REDIRECT], check=True)

    def tracked():
        entries = Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines()
        return [entry.split()[5] for entry in entries if "dport=9080" in entry]

    def call(port):
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        near.settimeout(5)
        near.bind(("127.0.0.1", port))
        near.connect(("127.0.0.1", 9080))
        return near

    def work():
        with socket.create_server(("127.0.0.1", 15001)) as listener:
            near = call(0)
            port = near.getsockname()[1]
            far, _ = listener.accept()
            with near, far:
                before = tracked()
                thaw.close_connections()
                after = tracked()
            with call(port) as near, listener.accept()[0] as far:
                near.sendall(b"x")
                return before, after, far.recv(1), tracked()

    assert run_in(namespace, work) == (["ESTABLISHED"], ["CLOSE"], b"x", ["ESTABLISHED"])


def test_no_connection_is_no_error(namespace):
    assert run_in(namespace, lambda: thaw.close_connections(0)) == 0


@pytest.fixture
def envoy(tmp_path):
    """An Envoy that answers over TLS, in a control group as a node has it; (its pid, port)."""
    issued = LabCa.create().issue_server(["lab"])
    (tmp_path / "chain").write_bytes(issued.chain)
    (tmp_path / "key").write_bytes(issued.key)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "envoy.yaml"
    file.write_text(CONFIGURATION.format(port=port, folder=tmp_path))
    argv = [str(artifacts.envoy(cache_root())), "-c", str(file), "--concurrency", "1", "--disable-hot-restart"]
    with subprocess.Popen([*argv, "--log-level", "error"]) as process:
        try:
            wait_until("Envoy answers", lambda: handshake(port), limit=30, interval=0.1)
            group = tmp_path / "group" / "testbed-sidecar@one.service"
            group.mkdir(parents=True)
            (group / "cgroup.procs").write_text(f"{process.pid}\n")
            yield process.pid, port, tmp_path / "group"
        finally:
            process.kill()


def handshake(port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain) as secure,
        ):
            secure.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
            assert secure.recv(12) == b"HTTP/1.1 200"
    except (ConnectionError, ssl.SSLError) as e:
        raise NotYet(str(e)) from None


def test_envoy_seeds_its_generator_anew_at_the_next_handshake(envoy, monkeypatch):
    """Its page is wiped, and it writes to that page again when it has noticed: then it has taken a new seed."""
    pid, port, group = envoy
    monkeypatch.setattr(thaw, "SIDECARS", str(group))

    def page():
        [(start, end)] = thaw.wiped_on_fork(str(pid))
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(start)
            return memory.read(end - start)

    assert any(page())
    pages = thaw.generators()
    assert [name for name, _ in pages] == ["testbed-sidecar@one.service"]
    assert thaw.reseed(pages) == []
    assert not any(page())
    handshake(port)
    assert any(page())


def test_a_proxy_without_such_a_page_is_named_for_a_restart(tmp_path, monkeypatch):
    group = tmp_path / "testbed-sidecar@one.service"
    group.mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        (group / "cgroup.procs").write_text(f"{process.pid}\n")
        monkeypatch.setattr(thaw, "SIDECARS", str(tmp_path))
        assert thaw.reseed(thaw.generators()) == ["testbed-sidecar@one.service"]
        process.kill()


def test_the_program_that_waits_in_the_image_answers_one_request_after_another(namespace, tmp_path):
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    with socket.create_server(("127.0.0.1", 0)) as free:
        asked_on = free.getsockname()[1]
    start = (
        f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); import testbed_thaw as thaw; "
        f"thaw.PORT, thaw.READY, thaw.SLICES = {asked_on}, {str(ready)!r}, [{str(tmp_path)!r}]; "
        f"thaw.STANDING = {str(tmp_path / 'standing')!r}; "
        "thaw.stay()"
    )

    def ask(document):
        with socket.create_connection(("127.0.0.1", asked_on), timeout=20) as connection:
            connection.sendall(json.dumps(document).encode())
            connection.shutdown(socket.SHUT_WR)
            return json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))

    def edge(port):
        return {"namespace": namespace.name, "address": "127.0.0.1", "port": port, "host": "lab", "path": "/"}

    with subprocess.Popen([sys.executable, "-ISE", "-c", start]) as waiting:
        try:
            assert ready.read_text() == "ready\n"
            with run_in(namespace, lambda: socket.create_server(("127.0.0.1", 0))) as listener:
                port = listener.getsockname()[1]
                answering = threading.Thread(target=answer_once, args=(listener,))
                answering.start()
                [[status, instance, _, error]] = ask({"do": "edges", "limit": 5, "requests": [edge(port)]})
                answering.join()
                assert (status, instance, error) == (200, "one", "")
            [[status, _, _, error]] = ask({"do": "edges", "limit": 5, "requests": [edge(port)]})
            assert (status, error) == (0, "[Errno 111] Connection refused")
            assert ask({"do": "edges"})["failed"] == "KeyError: 'requests'"
            assert ask({"do": "freeze"}) == {}
            assert (tmp_path / "standing").exists()
            assert ask({"do": "go on", "time": 0})["clock"] == 0  # a clock that is ahead is not set back
            assert not (tmp_path / "standing").exists()
            assert waiting.wait(10) == 0  # that was the last request
        finally:
            waiting.kill()


def test_the_program_tells_what_the_shell_tells(namespace, tmp_path):
    """Of a proxy that answers, and of one whose namespace is not there."""
    layout = Layout(root=str(tmp_path))
    proxies = [
        MeshWorkload(name, "default", name, {}, IPv4Address("10.0.0.1"), "node")
        for name in (namespace.name, "nobody")
    ]
    folder = Path(layout.directory(proxies[0]))
    (folder / ".state").mkdir(parents=True)
    (folder / "sds").mkdir()
    (folder / ".state/manifest.json").write_text('{"revision": "r1",\n "files": {}, "refused": {}}\n')
    (folder / "sds/a.json").write_text('{"private_key": "k", "certificate_chain": {"inline_string": "CHAIN\\n"}}')
    (folder / "sds/b.json").write_text('{"validation_context": {}}')
    (tmp_path / "hosts").write_text("127.0.0.1 localhost é\n")
    standing = tmp_path / "standing"
    with run_in(namespace, lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        guest = Guest(layout, admin_port=listener.getsockname()[1], standing=str(standing))
        about = (guest, proxies, [str(tmp_path / "hosts"), "/nowhere"], str(tmp_path))

        def told(asking):
            answering = threading.Thread(target=answer_once, args=(listener,))
            answering.start()
            said = asking()
            answering.join()
            return said

        shell = told(lambda: subprocess.run(question(*about), capture_output=True, check=True).stdout)
        program = told(lambda: thaw.testbed_look.look(question_for_program(*about)).encode())
        standing.write_text("1\n")  # nobody is asked then
        assert subprocess.run(question(*about), capture_output=True, check=True).stdout == (
            thaw.testbed_look.look(question_for_program(*about)).encode()
        )
    assert program == shell
    assert b"CHAIN" in shell and b"HTTP/1.1 200" in shell and b"private" not in shell


def answer_once(listener):
    connection, _ = listener.accept()
    with connection:
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):  # a shell sends line by line, and what is not read resets the answer
            asked += connection.recv(1000) or pytest.fail("the request was cut short")
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Instance: one\r\nContent-Length: 0\r\n\r\n")


def test_only_the_watch_that_was_started_is_ended(tmp_path, monkeypatch):
    """Numbers of processes recur: another process that has the noted number goes on."""
    monkeypatch.setattr(thaw, "SLICES", [])
    monkeypatch.setattr(thaw, "WATCH", str(tmp_path / "pid"))
    monkeypatch.setattr(thaw, "STANDING", str(tmp_path / "standing"))
    for shift, ended in ((1, False), (0, True)):
        with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
            began = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
            (tmp_path / "pid").write_text(f"{process.pid} {began + shift}\n")
            thaw.wake()
            assert not (tmp_path / "pid").exists()
            if ended:
                assert process.wait(5) == -15
            else:
                assert process.poll() is None
                process.kill()
