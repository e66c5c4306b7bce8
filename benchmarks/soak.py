"""One snapshot restored again and again under a client: `python benchmarks/soak.py [INVENTORY] [--runs 100]`.

After every restore the lab has to be healthy, and the client to be answered with 200.  Each node has the identity
and its workloads the addresses of the save, the right time, a random number that no restore before had, and a disk
without what was written after the save; each proxy has a certificate of its own that is valid now, for the identity
of the save.  At the end: what the restores took, what the client saw, and whether files, disk space, processes,
descriptors, network cards, mounts or memory grew, on the host or in the machines.  Ends with 1 at the first thing
that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from testbed.compiler import compile_mesh
from testbed.host import processes
from testbed.host.directories import LabDirectories
from testbed.host.processes import Process
from testbed.lab.lab import Lab
from testbed.lab.snapshots import each, named_store
from testbed.model.topology import ProxyKind
from testbed.waiting import NotYet, wait_until
from testbed.workflows.edges import edges_of
from testbed.workflows.loading import load_lab
from testbed.workflows.mesh import default_resources, security_of, standalone_of

COMMAND = [sys.executable, "-c", "from testbed.cli import main; main()"]
NAME = "soak"
LOOK = """
mark=$1
cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; ip -br address show eth0; ip -br link show eth1
for name in $(ls /run/netns); do echo "$name $(ip -n "$name" -br address show eth0)"; done
echo --
cat /proc/sys/kernel/random/uuid; date +%s.%N
set -- /proc/[0-9]*; echo $#; sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo
[ -e "$mark" ] && echo left || touch "$mark"
"""
CLOCK = 2.0
"""Seconds by which a node's clock may be off: an emulated machine takes that long to look at it on a busy host."""
ANSWER_LIMIT = 10.0
"""Seconds for the client to be answered with 200, from the end of a restore that was answered along every edge."""


def testbed(*arguments: str) -> str:
    """Run a command; its output.  A failing one ends the run."""
    return subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


@dataclass(frozen=True)
class Footprint:
    """What a lab holds, on its host and in its machines.  Sizes in MiB."""

    files: int
    """In the lab's folders, and of its snapshots; logs left out."""
    disk: float
    processes: tuple[tuple[str, int], ...]
    """Name of a program -> how often it runs."""
    descriptors: int
    """Open in all of these but the machines."""
    daemons: float
    """Resident in all but the machines."""
    machines: float
    """Resident in the machines' emulators."""
    cards: int
    """Network cards in the lab's namespace, taps and bridges included."""
    mounts: int
    guests: int
    """Processes in the machines."""
    available: float
    """Memory that a machine has to give, of the one that has least."""

    @classmethod
    def of(cls, lab_id: str, guests: Iterable[Guest]) -> Footprint:
        """Look at it; ``guests`` were looked at just now."""
        directories, seen = LabDirectories(lab_id), list(guests)
        folders = (directories.state, directories.runtime, named_store(lab_id).root)
        files = dict(_files(folders))
        found = processes.of_lab(directories.state)
        machines = [p for p in found if p.name.startswith("qemu-")]
        others = [p for p in found if p not in machines]
        inside = Path(f"/proc/{next(p.pid for p in found if p.name == 'libvirtd')}")
        return cls(
            files=len([p for p in files if not p.is_relative_to(directories.libvirt / "log")]),
            disk=sum(files.values()) / 2048,
            processes=tuple(sorted(Counter(p.name for p in found).items())),
            descriptors=sum(len(list(Path(f"/proc/{p.pid}/fd").iterdir())) for p in others),
            daemons=_resident(others),
            machines=_resident(machines),
            cards=len((inside / "net/dev").read_text().splitlines()),
            mounts=len((inside / "mountinfo").read_text().splitlines()),
            guests=sum(g.processes for g in seen),
            available=min(g.available for g in seen),
        )

    def grown(self, last: Footprint) -> Iterator[str]:
        """What is more in ``last``, or less of what there should be."""
        for name in ("files", "processes", "cards", "mounts"):
            if getattr(self, name) != getattr(last, name):
                yield f"{name}: {getattr(self, name)} became {getattr(last, name)}"
        for name, room in (("disk", 10), ("daemons", 10), ("machines", 10), ("descriptors", 10), ("guests", 10)):
            before, after = getattr(self, name), getattr(last, name)
            if after > 1.5 * before + room:
                yield f"{name}: {before:.0f} became {after:.0f}"
        if last.available < 0.8 * self.available:
            yield f"a machine's available memory: {self.available:.0f} became {last.available:.0f} MiB"


def _files(folders: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Every file, and its blocks of 512 bytes; one that goes meanwhile is none."""
    for path in (p for folder in folders for p in folder.rglob("*")):
        with suppress(FileNotFoundError):
            if stat.S_ISREG((found := path.lstat()).st_mode):
                yield path, found.st_blocks


def _resident(found: Iterable[Process]) -> float:
    pages = sum(int(Path(f"/proc/{p.pid}/statm").read_text().split()[1]) for p in found)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Guest:
    """What a node says of itself."""

    identity: str
    random: str
    off: float
    """Seconds by which its clock is ahead of any moment at which it can have been read, or behind."""
    processes: int
    available: float
    """MiB."""
    left: bool
    """Whether its disk has what was written there after the save."""

    @classmethod
    def read(cls, said: str, begun: float, ended: float) -> Guest:
        """From what :data:`LOOK` printed between these two moments, in seconds since the epoch."""
        identity, _, rest = said.partition("\n--\n")
        random, clock, count, available, *left = rest.split()
        off = float(clock) - min(max(float(clock), begun), ended)
        return cls(identity, random, off, int(count), int(available) / 1024, bool(left))


@dataclass(frozen=True)
class Certificate:
    """What a proxy shows to others."""

    identities: tuple[str, ...]
    serial: str
    begins: datetime
    ends: datetime

    @classmethod
    def read(cls, said: bytes) -> Certificate:
        """From Envoy's ``/certs``, which has it once for each context; ValueError for none, or several."""
        found = {
            cls(
                tuple(name.get("uri", "") for name in chain["subject_alt_names"]),
                chain["serial_number"],
                datetime.fromisoformat(chain["valid_from"]),
                datetime.fromisoformat(chain["expiration_time"]),
            )
            for certificate in json.loads(said)["certificates"]
            for chain in certificate["cert_chain"]
            if any(name.get("uri", "").startswith("spiffe:") for name in chain["subject_alt_names"])
        }
        if len(found) != 1:
            raise ValueError(f"a proxy has {len(found)} certificates: {found}")
        return found.pop()


class Client:
    """Calls the gateway five times a second, for as long as the block lasts."""

    def __init__(self, url: str, host: str) -> None:
        self.request = urllib.request.Request(url, headers={"Host": host})
        self.answers: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
        """Whether the lab was restored for the request's whole length -> status (0: none) -> how often."""
        self.restored = True
        self._answered = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            sent, restored = time.monotonic(), self.restored
            try:
                with urllib.request.urlopen(self.request, timeout=2) as answer:
                    status = answer.status
            except urllib.error.HTTPError as e:
                status = e.code
            except OSError:
                status = 0
            self.answers[restored and self.restored][status] += 1
            if status == 200:
                self._answered = sent

    def require_answer(self, limit: float) -> None:
        """Wait for a 200 to a request that was sent from now on."""
        begun = time.monotonic()

        def answered() -> None:
            if self._answered < begun:
                raise NotYet(f"answers since the first restore: {dict(self.answers[True])}")

        wait_until("the client's next 200", answered, limit=limit, interval=0.05)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def look(lab: Lab, mark: str) -> tuple[dict[str, Guest], dict[str, Certificate]]:
    """What the nodes say, and the certificate of each workload's proxy; leaves the file ``mark`` on each node."""

    def ask(node: str) -> Guest:
        lab.connection(node).connect()  # takes a while
        begun = time.time()
        said = lab.connection(node).run(["sh", "-c", LOOK, "sh", mark]).stdout.decode()
        return Guest.read(said, begun, time.time())

    backend = standalone_of(lab)
    guests = each((n.name for n in lab.inventory.nodes), ask)
    workloads = [w.name for w in lab.topology.workloads]
    return guests, each(workloads, lambda name: Certificate.read(backend.admin(name, "/certs")))


def wrong(
    guests: dict[str, Guest],
    certificates: dict[str, Certificate],
    saved: tuple[dict[str, Guest], dict[str, Certificate]],
    drawn: set[str],
) -> Iterator[str]:
    """What is not as it has to be; ``drawn`` are the random numbers of earlier restores."""
    for node, guest in guests.items():
        if guest.identity != saved[0][node].identity:
            yield f"{node}: its identity is another than before the save"
        if guest.random in drawn:
            yield f"{node} repeats a random number"
        if abs(guest.off) > CLOCK:
            yield f"the clock of {node} is off by {guest.off:.1f} s"
        if guest.left:
            yield f"the disk of {node} has what was written after the save"
    for name, certificate in certificates.items():
        if certificate.identities != saved[1][name].identities:
            yield f"{name}: its certificate is for {certificate.identities}, not {saved[1][name].identities}"
        if not certificate.begins <= datetime.now(UTC) <= certificate.ends:
            yield f"{name}: its certificate is valid from {certificate.begins} to {certificate.ends}"
    if len({c.serial for c in certificates.values()}) < len(certificates):
        yield "two proxies have the same certificate"


def way_in(lab: Lab) -> tuple[str, str]:
    """Path and Host of a request that is answered through the gateway."""
    resources = default_resources(lab)
    edges = edges_of(lab.topology, resources, compile_mesh(resources, lab.topology, security=security_of(lab)))
    edge = next(e for e in edges if e.caller.kind is ProxyKind.GATEWAY)
    return edge.path, edge.host


def soak(inventory: str, runs: int) -> None:
    """Restore ``runs`` times and print what came of it."""
    testbed("up", "-i", inventory, "--json")
    mark = f"/root/after-the-save-{uuid.uuid4().hex[:8]}"
    with load_lab(inventory).closing() as lab:
        path, host = way_in(lab)
        testbed("snapshot", "save", "-i", inventory, NAME)
        saved = look(lab, mark)
    seconds, drawn, footprints, off = [], {g.random for g in saved[0].values()}, [], 0.0
    try:
        url = next(iter(json.loads(testbed("status", "-i", inventory, "--json"))["urls"].values()))
        with Client(url.rstrip("/") + path, host) as client:
            for number in range(1, runs + 1):
                client.restored = False
                began = time.monotonic()
                testbed("snapshot", "restore", "-i", inventory, NAME)
                seconds.append(time.monotonic() - began)
                client.restored = True
                client.require_answer(ANSWER_LIMIT)
                if not json.loads(testbed("status", "-i", inventory, "--json"))["healthy"]:
                    sys.exit(f"restore {number}: the lab is not healthy")
                with load_lab(inventory).closing() as lab:
                    guests, certificates = look(lab, mark)
                for trouble in wrong(guests, certificates, saved, drawn):
                    sys.exit(f"restore {number}: {trouble}")
                drawn |= {g.random for g in guests.values()}
                off = max(off, *(abs(g.off) for g in guests.values()))
                footprints.append(Footprint.of(lab.id, guests.values()))
    finally:
        testbed("snapshot", "delete", "-i", inventory, NAME)
    print(f"{runs} restores: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")
    print(f"no clock was off by more than {off:.2f} s")
    print(f"the client's answers by status (0: none) while a restore was under way: {client.answers[False]}")
    print(f"and between restores: {client.answers[True]}")
    print(f"after the first: {footprints[0]}\nafter the last:  {footprints[-1]}")
    for trouble in footprints[0].grown(footprints[-1]):
        sys.exit(trouble)
    if bad := {status: n for status, n in client.answers[True].items() if status >= 300}:
        sys.exit(f"the client had other answers than 200 from a lab that was restored: {bad}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inventory", nargs="?", default="two-nodes")
    parser.add_argument("--runs", type=int, default=100)
    options = parser.parse_args()
    soak(options.inventory, options.runs)


if __name__ == "__main__":
    main()
