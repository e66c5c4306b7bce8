"""One snapshot restored again and again under a client: `python benchmarks/soak.py [INVENTORY] [--runs 100]`.

After every restore the lab has to be healthy with the identities of the save, the right time and random numbers
that no restore before had.  At the end: what the restores took, what the client saw, and whether disk space,
processes or memory grew.  Ends with 1 at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from testbed.host import processes
from testbed.host.directories import LabDirectories
from testbed.workflows.loading import load_lab

COMMAND = [sys.executable, "-c", "from testbed.cli import main; main()"]
NAME = "soak"
IDENTITY = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; ip -br address show eth0; ip -br link show eth1"
FRESH = (
    "cat /proc/sys/kernel/random/uuid; date +%s.%N; test ! -e /root/after-the-save && touch /root/after-the-save"
)


def testbed(*arguments: str) -> str:
    """Run a command; its output.  A failing one ends the run."""
    return subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


@dataclass(frozen=True)
class Footprint:
    """What a lab holds on its host."""

    files: int
    megabytes: float
    processes: int
    daemon: float
    """MiB that libvirtd has resident."""

    @classmethod
    def of(cls, lab_id: str) -> Footprint:
        """Look at it."""
        files = [p for p in LabDirectories(lab_id).volumes.rglob("*") if p.is_file()]
        found = processes.of_lab(LabDirectories(lab_id).state)
        libvirtd = next(p.pid for p in found if p.name == "libvirtd")
        resident = int(Path(f"/proc/{libvirtd}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return cls(len(files), sum(p.stat().st_blocks for p in files) / 2048, len(found), resident / 2**20)


class Client:
    """Calls the gateway five times a second, for as long as the block lasts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: Counter[int] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            try:
                with urllib.request.urlopen(self.url, timeout=2) as answer:
                    self.answers[answer.status] += 1
            except urllib.error.HTTPError as e:
                self.answers[e.code] += 1
            except OSError:
                self.answers[0] += 1

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def soak(inventory: str, runs: int) -> None:
    """Restore ``runs`` times and print what came of it."""
    lab = load_lab(inventory)
    nodes = [n.name for n in lab.inventory.nodes]
    testbed("up", "-i", inventory, "--json")

    def on(command: str) -> dict[str, list[str]]:
        return {n: testbed("ssh", "-i", inventory, n, "--", "sh", "-c", command).split("\n") for n in nodes}

    identity = on(IDENTITY)
    testbed("snapshot", "save", "-i", inventory, NAME)
    seconds, seen, footprints = [], set(), []
    try:
        url = next(iter(json.loads(testbed("status", "-i", inventory, "--json"))["urls"].values()))
        with Client(url) as client:
            for number in range(runs):
                began = time.monotonic()
                testbed("snapshot", "restore", "-i", inventory, NAME)
                seconds.append(time.monotonic() - began)
                if not json.loads(testbed("status", "-i", inventory, "--json"))["healthy"]:
                    sys.exit(f"restore {number + 1}: the lab is not healthy")
                if on(IDENTITY) != identity:
                    sys.exit(f"restore {number + 1}: an identity is another than before the save")
                for node, (random, clock, *_) in on(FRESH).items():
                    if random in seen:
                        sys.exit(f"restore {number + 1}: {node} repeats a random number")
                    if abs(float(clock) - time.time()) > 10:
                        sys.exit(f"restore {number + 1}: the clock of {node} says {clock}")
                    seen.add(random)
                footprints.append(Footprint.of(lab.id))
    finally:
        testbed("snapshot", "delete", "-i", inventory, NAME)
    first, last = footprints[0], footprints[-1]
    print(f"{runs} restores: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")
    print(f"the client's answers by status (0: none): {dict(sorted(client.answers.items()))}")
    print(f"after the first: {first}\nafter the last:  {last}")
    if (first.files, first.processes) != (
        last.files,
        last.processes,
    ) or last.megabytes > 1.5 * first.megabytes + 10:
        sys.exit("files, processes or disk space grew")
    if last.daemon > 1.5 * first.daemon + 10:
        sys.exit("libvirtd's memory grew")
    if not client.answers[200]:
        sys.exit("the client was never answered")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inventory", nargs="?", default="two-nodes")
    parser.add_argument("--runs", type=int, default=100)
    options = parser.parse_args()
    soak(options.inventory, options.runs)


if __name__ == "__main__":
    main()
