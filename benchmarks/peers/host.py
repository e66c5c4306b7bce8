"""Where peers start their machines: a libvirt daemon and a network namespace that nobody else uses.

They are those of a lab with an id of its own, which no inventory describes. Commands run in its namespaces, with
a home folder of their own: `qemu:///system` is its daemon there, and nothing of the host's network, of another
libvirt or of the user's own settings is in sight.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from testbed.errors import LabError, TestbedError
from testbed.guests.keys import KeyPair, key_pair
from testbed.guests.ssh import SshConnection
from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories
from testbed.host.lock import hold
from testbed.host.namespaces import LabNetwork, command_in
from testbed.host.probes import kvm
from testbed.images import NodeImage
from testbed.waiting import NotYet, wait_until

ID = "peers.lab-speed"
"""None that an inventory can have."""
POOL = Path("/var/lib/libvirt/images")
"""As the daemon sees it."""
LIMIT = 900.0
"""Seconds for all machines of a peer to answer."""
_POOL = f"""\
<pool type="dir"><name>default</name><target><path>{POOL}</path></target></pool>
"""
_NETWORK = """\
<network><name>default</name><forward mode="nat"/><bridge name="virbr0" stp="on" delay="0"/>
<ip address="192.168.122.1" netmask="255.255.255.0">
<dhcp><range start="192.168.122.2" end="192.168.122.254"/></dhcp></ip></network>
"""
"""What libvirt's own packages bring."""


@dataclass
class Host:
    """The namespaces, the daemon in them, and the disk that peers start from."""

    directories: LabDirectories = field(default_factory=lambda: LabDirectories(ID))
    emulated: bool = field(default_factory=lambda: not kvm.verdict().usable)
    """Whether KVM can't be used: peers believe what libvirt says, which has not tried it."""

    @property
    def home(self) -> Path:
        """The home folder of what runs in here."""
        return self.directories.state / "home"

    @property
    def pool(self) -> Path:
        """The storage pool named default, as this host sees it."""
        return self.directories.libvirt / "lib" / "images"

    @property
    def client(self) -> KeyPair:
        """The key that machines let in; peers that log in themselves take its file."""
        return key_pair(self.key_file)

    @property
    def key_file(self) -> Path:
        """Where it lies."""
        return self.home / ".ssh" / "id_ed25519"

    @property
    def host_key(self) -> KeyPair:
        """What every machine shows; they all have the same disk."""
        return key_pair(self.directories.pki / "host_ed25519")

    @contextmanager
    def running(self, image: NodeImage) -> Iterator[Path]:
        """Start the daemon with its pool, its network and the disk, for as long as a block lasts.  The disk."""
        from peers import base

        daemon = PrivateDaemon(ID, self.directories)
        with hold(self.directories, limit=1):
            daemon.stop()  # of a run that was killed
            self.directories.remove()
            self.directories.create()
            try:
                self.pool.mkdir(parents=True)
                (self.home / ".ssh").mkdir(parents=True, mode=0o700)
                (self.home / ".ssh" / "id_ed25519.pub").write_text(self.client.public + "\n")
                disk = base.build(image, self.client, self.host_key, self.pool)
                daemon.start()
                for kind, xml in (("pool", _POOL), ("net", _NETWORK)):
                    file = self.home / f"{kind}.xml"
                    file.write_text(xml)
                    self.run("virsh", f"{kind}-define", str(file))
                    self.run("virsh", f"{kind}-start", "default")
                yield disk
            finally:
                daemon.stop()
                self.directories.remove()

    def command(self, arguments: Sequence[str]) -> list[str]:
        """``arguments``, run in here."""
        found = PrivateDaemon(ID, self.directories).find()
        if found is None or found.libvirtd is None:
            raise LabError("peers", "run a command", "their libvirt daemon does not run", "see its log")
        return command_in(found.libvirtd.pid, arguments)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Of a command in here: nothing of the user's but the language."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "HOME": str(self.home), "LC_ALL": "C.UTF-8", **(more or {})}

    def run(
        self, *arguments: str, check: bool = True, cwd: Path | None = None, more: Mapping[str, str] | None = None
    ) -> str:
        """Run a command in here to its end; its output.  LabError with its last words when it fails."""
        there = [
            "sh",
            "-c",
            'cd "$0" && exec "$@"',
            str(cwd or self.home),
        ]  # who enters a mount namespace is at its /
        process = subprocess.Popen(
            self.command([*there, *arguments]), env=self.environment(more), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=LIMIT)
        except BaseException as e:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(e, subprocess.TimeoutExpired):
                raise LabError(arguments[0], "run", f"it took more than {LIMIT:g} s", "run it by hand") from None
            raise
        if check and process.returncode != 0:
            last = " | ".join(said.strip().splitlines()[-8:])
            raise LabError(arguments[0], "run", f"status {process.returncode}: {last}", "run it by hand")
        return said

    def addresses(self) -> set[str]:
        """What the networks' DHCP servers have given out."""
        return {a for file in (self.directories.libvirt / "lib" / "dnsmasq").glob("*.status") for a in leased(file)}

    def answering(self, address: str) -> bool:
        """Whether a machine at ``address`` lets us in and runs a command."""
        network = LabNetwork(self.directories)
        connection = SshConnection(
            address, lambda limit: network.dial(address, 22, limit), self.client, self.host_key.public
        )
        try:
            connection.connect(limit=15)
            return connection.run(["true"], check=False).status == 0
        except TestbedError:
            return False
        finally:
            connection.close()

    def machines(self) -> list[str]:
        """Names of all that libvirt has."""
        return self.run("virsh", "list", "--all", "--name").split()

    def clear(self) -> None:
        """Remove all machines, with their disks."""
        for name in self.machines():
            self.run("virsh", "destroy", name, check=False)
            self.run("virsh", "undefine", name, "--remove-all-storage")


def seen(disk: Path) -> Path:
    """A file in the pool, as the daemon sees it."""
    return POOL / disk.name


def leased(file: Path) -> list[str]:
    """The addresses in a lease file of libvirt's; none of one that is being written."""
    with suppress(OSError, ValueError, TypeError):
        return [entry["ip-address"] for entry in json.loads(file.read_text()) if "ip-address" in entry]
    return []


class Watch:
    """Looks for machines that answer, from now on, each address in a thread of its own."""

    def __init__(self, host: Host, count: int) -> None:
        self._host, self._count = host, count
        self._began = time.monotonic()
        self._answered: dict[str, float] = {}
        self._stop = threading.Event()
        self._seen: set[str] = set()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            for address in self._host.addresses() - self._seen:
                self._seen.add(address)
                threading.Thread(target=self._ask, args=(address,), daemon=True).start()

    def _ask(self, address: str) -> None:
        while not self._stop.wait(0.3):
            if self._host.answering(address):
                self._answered[address] = time.monotonic() - self._began
                return

    def result(self, limit: float = LIMIT) -> float:
        """Wait for all; seconds until the last one answered.  Raises WaitTimeout."""

        def all_there() -> float:
            if len(self._answered) < self._count:
                raise NotYet(f"{len(self._answered)} of {self._count}, of addresses {sorted(self._seen)}")
            return sorted(self._answered.values())[self._count - 1]

        try:
            return wait_until("machines that answer on SSH", all_there, limit=limit, interval=0.1)
        finally:
            self.close()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        self._looking.join()
