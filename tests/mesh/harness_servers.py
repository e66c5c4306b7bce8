"""Namespaces that play the servers of a cluster, with a card in either network and real keepalived in each."""

import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from harness_network import RUN_ROOT, command, new_tag, remove_namespace

from testbed.deploy.keepalived import CHECK, CONFIG, keepalived_files
from testbed.host.directories import testbed_home as home
from testbed.host.namespaces import run_in
from testbed.model.clusters import api_address, router_address
from testbed.model.reading import read_inventory
from testbed.waiting import NotYet, wait_until

INVENTORY = read_inventory((home() / "inventories" / "k3s-ha.yaml").read_text(), "k3s-ha.yaml")
SERVERS = [n.name for n in INVENTORY.servers()]
ADDRESS = api_address(INVENTORY)
ROUTER = router_address(INVENTORY)
SECRET = "0123456789abcdef"
VRRP = 112
"""The protocol's number in IP (RFC 3768)."""


class Servers(ABC):
    """Of ``inventories/k3s-ha.yaml``; what their API is, who uses it says."""

    def __init__(self) -> None:
        self.tag = new_tag()
        self.folder = RUN_ROOT / self.tag
        self.bridge = f"{self.tag}-bridge"
        self.keepalived: dict[str, subprocess.Popen[bytes]] = {}

    @abstractmethod
    def api(self, node) -> list[str]:
        """The program that plays a server's API, in its namespace."""

    @abstractmethod
    def tls(self, node) -> Path:
        """Where its check finds what it shows that API."""

    def namespace(self, server: str) -> str:
        return f"{self.tag}-{server}"

    def enter(self, server: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace(server)]

    def log(self, server: str) -> str:
        return (self.folder / f"{server}.log").read_text()

    def create(self) -> None:
        """The networks and the servers' cards."""
        self.folder.mkdir(parents=True)
        command("ip", "netns", "add", self.bridge)
        links = ["link set lo up"]
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
            self.connect(node)

    def connect(self, node) -> None:
        """Its cards with its own addresses."""
        lines = [
            "link set lo up",
            f"addr add {INVENTORY.management_address(node.name)}/24 dev eth0",
            f"addr add {INVENTORY.mesh_address(node.name)}/24 dev eth1",
            "link set eth0 up",
            "link set eth1 up",
        ]
        command("ip", "-n", self.namespace(node.name), "-batch", "-", stdin="\n".join(lines))

    def start(self, node) -> None:
        """Its API, and keepalived with the files that the server gets."""
        namespace = self.namespace(node.name)
        # `ip netns exec` lays this folder over /etc, so everything is where a server has it
        for file in keepalived_files(INVENTORY, node, SECRET, str(self.tls(node))).files:
            if file.path in (CHECK, CONFIG):
                path = Path(f"/etc/netns/{namespace}") / Path(file.path).relative_to("/etc")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=file.mode)
                path.write_text(file.content)
        pids = [f"--{kind}={self.folder}/{node.name}.{kind}" for kind in ("pid", "vrrp_pid")]
        program = [*self.enter(node.name), "keepalived", "--dont-fork", "--log-console", "--vrrp", *pids]
        with (self.folder / f"{node.name}.log").open("ab") as log:
            subprocess.Popen([*self.enter(node.name), *self.api(node)], stdout=log, stderr=log)
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

    def wait_for_nobody(self, lasts: float = 0) -> None:
        """Until nobody has the address, and has had it for so many seconds."""
        since = None

        def look() -> None:
            nonlocal since
            if holders := self.holders():
                since = None
                raise NotYet(f"it is on {sorted(holders)}")
            since = since or time.monotonic()
            if time.monotonic() - since < lasts:
                raise NotYet(f"it has been nowhere for {time.monotonic() - since:.0f} s")

        wait_until(f"{ADDRESS} is nowhere", look, limit=60 + lasts)
