"""Addresses that move between a cluster's servers: real keepalived, with the files that servers get.

Namespaces play the servers, with a card in either network, and a small HTTPS server in each one plays its API: it wants
the administrator's certificate, and is ready as long as a file is there.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from harness_network import RUN_ROOT, command, new_tag, remove_leftovers, remove_namespace

from testbed.deploy.keepalived import CHECK, CONFIG, keepalived_files
from testbed.host.directories import testbed_home as home
from testbed.host.namespaces import run_in
from testbed.model.clusters import api_address, router_address
from testbed.model.reading import read_inventory
from testbed.waiting import NotYet, wait_until

pytestmark = [
    pytest.mark.mesh,
    pytest.mark.skipif(shutil.which("keepalived") is None, reason="needs keepalived: run scripts/setup test"),
]

INVENTORY = read_inventory((home() / "inventories" / "k3s-ha.yaml").read_text(), "k3s-ha.yaml")
SERVERS = [n.name for n in INVENTORY.servers()]
ADDRESS = api_address(INVENTORY)
ROUTER = router_address(INVENTORY)
SECRET = "0123456789abcdef"
VRRP = 112
"""The protocol's number in IP (RFC 3768)."""

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


class Servers:
    def __init__(self) -> None:
        self.tag = new_tag()
        self.folder = RUN_ROOT / self.tag
        self.bridge = f"{self.tag}-bridge"
        self.keepalived: dict[str, subprocess.Popen[bytes]] = {}

    def namespace(self, server: str) -> str:
        return f"{self.tag}-{server}"

    def ready(self, server: str) -> Path:
        return self.folder / f"{server}.ready"

    def log(self, server: str) -> str:
        return (self.folder / f"{server}.log").read_text()

    def create(self) -> None:
        tls = self.folder / "tls"
        tls.mkdir(parents=True)
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
        command("ip", "netns", "add", self.bridge)
        links = [
            "link set lo up",
        ]
        networks = (INVENTORY.networks.management, INVENTORY.networks.mesh)
        for card, network in enumerate(networks):
            links += [
                f"link add br{card} type bridge forward_delay 0 mcast_snooping 0",
                f"addr add {network.network_address + 1}/24 dev br{card}",
                f"link set br{card} up",
            ]
        for number, server in enumerate(SERVERS):
            command("ip", "netns", "add", self.namespace(server))
            for card in range(len(networks)):
                end = f"v{number}{card}"
                links += [
                    f"link add {end} type veth peer name eth{card} netns {self.namespace(server)}",
                    f"link set {end} master br{card} up",
                ]
        command("ip", "-n", self.bridge, "-batch", "-", stdin="\n".join(links))
        for node in INVENTORY.servers():
            self._start(node, tls)

    def _start(self, node, tls: Path) -> None:
        namespace = self.namespace(node.name)
        lines = [
            "link set lo up",
            f"addr add {INVENTORY.management_address(node.name)}/24 dev eth0",
            f"addr add {INVENTORY.mesh_address(node.name)}/24 dev eth1",
            "link set eth0 up",
            "link set eth1 up",
        ]
        command("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines))
        # `ip netns exec` lays this folder over /etc, so everything is where a server has it
        for file in keepalived_files(INVENTORY, node, SECRET, str(tls)).files:
            if file.path in (CHECK, CONFIG):
                path = Path(f"/etc/netns/{namespace}") / Path(file.path).relative_to("/etc")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=file.mode)
                path.write_text(file.content)
        enter = ["ip", "netns", "exec", namespace]
        api = [*enter, sys.executable, "-c", API, node.name, str(self.ready(node.name)), str(tls)]
        pids = [f"--{kind}={self.folder}/{node.name}.{kind}" for kind in ("pid", "vrrp_pid")]
        program = [*enter, "keepalived", "--dont-fork", "--log-console", "--vrrp", *pids]
        with (self.folder / f"{node.name}.log").open("wb") as log:
            subprocess.Popen(api, stdout=log, stderr=log)
            self.keepalived[node.name] = subprocess.Popen(program, stdout=log, stderr=log)

    def destroy(self) -> None:
        for namespace in (*map(self.namespace, SERVERS), self.bridge):
            remove_namespace(namespace)
        shutil.rmtree(self.folder, ignore_errors=True)

    def holders(self, address=ADDRESS) -> set[str]:
        show = ["-4", "-o", "address", "show", "to", f"{address}/32"]
        return {s for s in SERVERS if command("ip", "-n", self.namespace(s), *show).strip()}

    def wait_for_holder(self, among: set[str], address=ADDRESS) -> str:
        """The one server that has the address, once it is one of ``among``."""

        def look() -> str:
            holders = self.holders(address)
            if len(holders) != 1 or not holders <= among:
                raise NotYet(f"it is on {sorted(holders) or 'none'}\n" + "\n".join(map(self.log, SERVERS)))
            return holders.pop()

        return wait_until(f"{address} is on one of {sorted(among)}", look, limit=60)

    def wait_for_settled_holder(self, address: str) -> str:
        """The server that has the address and goes on having it: of two that take it at once, one gives way as soon
        as it hears of the other, which says so every second."""
        before: set[str] = set()

        def look() -> str:
            nonlocal before
            holders, before = before, self.holders(address)
            if len(before) != 1 or before != holders:
                raise NotYet(f"it is on {sorted(before) or 'none'}, and was on {sorted(holders) or 'none'}")
            return next(iter(before))

        return wait_until(f"{address} stays on one server", look, limit=60, interval=4)

    def hears(self, server: str, other: str) -> bytes:
        """The next packet of VRRP that ``server`` gets from ``other``; TimeoutError when none comes."""
        namespace = Path(f"/run/netns/{self.namespace(server)}")
        with run_in(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, VRRP)) as listening:
            listening.settimeout(60)
            while True:
                packet, (source, _) = listening.recvfrom(2048)
                if source == str(INVENTORY.management_address(other)):
                    return packet

    def wait_for_nobody(self) -> None:
        def look() -> None:
            if holders := self.holders():
                raise NotYet(f"it is on {sorted(holders)}")

        wait_until(f"{ADDRESS} is nowhere", look, limit=60)

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
    made = Servers()
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
