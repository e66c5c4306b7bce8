"""Addresses that move between a cluster's servers: real keepalived, with the files that servers get.

Namespaces play the servers, with a card in either network, and a small HTTPS server in each one plays its API: it wants
the administrator's certificate, and is ready as long as a file is there.
"""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from harness_network import command, remove_leftovers
from harness_servers import ADDRESS, INVENTORY, ROUTER, SECRET, SERVERS, Servers

from testbed.waiting import NotYet, wait_until

pytestmark = [
    pytest.mark.mesh,
    pytest.mark.skipif(shutil.which("keepalived") is None, reason="needs keepalived: run scripts/setup test"),
]

API = """
import http.server, pathlib, ssl, sys
name, ready, tls = sys.argv[1:]
class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/name" or pathlib.Path(ready).exists() else 500)
        self.end_headers()
        self.wfile.write(name.encode())
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{tls}/client-admin.crt", f"{tls}/client-admin.key")
context.load_verify_locations(f"{tls}/server-ca.crt")
context.verify_mode = ssl.CERT_REQUIRED
server = http.server.ThreadingHTTPServer(("", 6443), Api)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


class PlayedServers(Servers):
    def ready(self, server):
        return self.folder / f"{server}.ready"

    def tls(self, node):
        return self.folder / "tls"

    def api(self, node):
        return [sys.executable, "-c", API, node.name, str(self.ready(node.name)), str(self.tls(node))]

    def create(self):
        super().create()
        tls = self.folder / "tls"
        tls.mkdir()
        # one certificate is authority, server and administrator
        request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=api"
        names = f"subjectAltName=IP:127.0.0.1,IP:{ADDRESS}"
        command(
            *request.split(),
            "-addext",
            names,
            "-keyout",
            f"{tls}/client-admin.key",
            "-out",
            f"{tls}/client-admin.crt",
        )
        shutil.copy(tls / "client-admin.crt", tls / "server-ca.crt")
        for node in INVENTORY.servers():
            self.start(node)

    def wait_for_answer(self, among: set[str]) -> None:
        """From the lab host's end of the network."""
        tls = self.folder / "tls"
        curl = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "5",
            "--noproxy",
            "*",
            "--cacert",
            f"{tls}/server-ca.crt",
        ]
        curl += [
            "--cert",
            f"{tls}/client-admin.crt",
            "--key",
            f"{tls}/client-admin.key",
            f"https://{ADDRESS}:6443/name",
        ]

        def ask() -> None:
            done = subprocess.run(
                ["ip", "netns", "exec", self.bridge, *curl], capture_output=True, text=True, check=False
            )
            if done.stdout not in among:
                raise NotYet(f"{done.stdout or done.stderr}")

        wait_until(f"the API of one of {sorted(among)} answers at {ADDRESS}", ask, limit=60)


@pytest.fixture
def servers():
    remove_leftovers()
    made = PlayedServers()
    try:
        made.create()
        yield made
    finally:
        made.destroy()


def test_the_address_is_where_an_api_is_ready_and_moves_when_it_or_keepalived_dies(servers):
    everybody = set(SERVERS)
    servers.ready("server-1").touch()
    assert servers.wait_for_holder(everybody) == "server-1"
    servers.wait_for_answer({"server-1"})
    router = servers.wait_for_settled_holder(ROUTER)  # it asks no API, and whoever was there first has it
    for server in ("server-2", "server-3"):
        assert servers.hears(server, "server-1").endswith(SECRET[:8].encode()), "who has it says so to each of them"

    for server in ("server-2", "server-3"):
        servers.ready(server).touch()
    servers.ready("server-1").unlink()
    others = {"server-2", "server-3"}
    second = servers.wait_for_holder(others)
    servers.wait_for_answer(others)
    assert servers.holders(ROUTER) == {router}, "packets need no API, and a move would break connections"

    # its child, which has the address, takes it away and ends: whoever kills both is undone by the unit
    servers.ready("server-1").touch()
    os.kill(servers.keepalived[second].pid, signal.SIGKILL)
    left = everybody - {second}
    servers.wait_for_holder(left)
    servers.wait_for_answer(left)
    if router == second:
        router = servers.wait_for_holder(left, ROUTER)

    for server in SERVERS:
        servers.ready(server).unlink()
    servers.wait_for_nobody()
    assert servers.holders(ROUTER) == {router}

    # as when the machine has lost its power
    command("ip", "-n", servers.namespace(router), "link", "set", "eth1", "down")
    servers.wait_for_holder(left - {router}, ROUTER)
