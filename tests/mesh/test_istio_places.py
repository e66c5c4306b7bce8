"""A pod's loopback is reached through the namespace that has the pod's address, whatever that is called."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import LocalConnection
from harness_network import command, remove_namespace

from testbed.backends.answers import body_of
from testbed.backends.istio.places import Place, exchange, named
from testbed.guests import CommandFailed

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{sys.argv[1]} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.HTTPServer(("127.0.0.1", 15000), Handler)
print("listening", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def pods():
    """Two namespaces, by their addresses, which no other test on this host has."""
    number = os.getpid() % 65536
    # shared address space (RFC 6598); a namespace's name begins another's, and so does an address
    pods = {
        f"100.64.{number >> 8}.{number & 255}": f"cni-{number}",
        f"100.65.{number >> 8}.{number & 255}": f"cni-{number}0",
    }
    servers = []
    try:
        for address, name in pods.items():
            command("ip", "netns", "add", name)
            command("ip", "-n", name, "link", "set", "lo", "up")
            command("ip", "-n", name, "address", "add", f"{address}/32", "dev", "lo")
            argv = ["ip", "netns", "exec", name, sys.executable, "-c", SERVER, name]
            servers.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
            assert servers[-1].stdout.readline() == b"listening\n"
        yield pods
    finally:
        for server in servers:
            server.kill()
            server.wait()
        for name in pods.values():
            remove_namespace(name)


def ask(address, port=15000):
    place = Place("pod.default", "here", address)
    command = exchange(place, port, "/stats?filter=a|b", "/info")
    *answers, rest = LocalConnection("here").run(command).stdout.split(b"\0")
    assert rest == b""
    return [body_of(answer).decode() for answer in answers]


def test_questions_come_to_the_namespace_that_has_the_address(pods):
    assert {address: ask(address) for address in pods} == {
        a: [f"{name} /stats?filter=a|b", f"{name} /info"] for a, name in pods.items()
    }


def test_a_namespace_is_given_a_name_and_another_one_takes_it_over(pods):
    link = Path(f"/run/netns/echo-{os.getpid()}")
    try:
        for address, name in pods.items():
            LocalConnection("here").run(named(Place("pod.default", "here", address), link.name))
            assert link.resolve().name == name
    finally:
        link.unlink(missing_ok=True)


def test_an_address_that_no_namespace_has_is_named(pods):
    with pytest.raises(CommandFailed, match=r"no namespace here has the address 100\.66\.0\.1"):
        ask("100.66.0.1")


def test_a_port_that_nobody_listens_on_is_a_failure(pods):
    with pytest.raises(CommandFailed, match="refused"):
        ask(next(iter(pods)), 15001)
