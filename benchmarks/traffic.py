"""What the traffic agent can send, and how many requests a verdict needs.

    python benchmarks/traffic.py [INVENTORY] [--requests 500]   on a lab that is up
    python benchmarks/traffic.py --shares                       needs none

The first sends from the lab's client to the service that its scenario splits, through both sidecars: requests a
second, requests for each second of the agent's processor time (its own limit, were the mesh infinitely fast), where
the time of processors goes, and the time from in force until a verdict on so many requests is there, logs of both
ends compared.  The second prints the mean number of requests against the true share, exactly
(docs/explanation/statistics.md has it as a picture).

The limit, six emulated machines on two processors: a request takes 30 ms of them, so 67 a second is all that
there can be.  10 ms of it are the caller's machine, 15 ms the two that answer; in each the sidecar is most.
The agent could send 225 to 330 a second.  500 requests were judged 15 s after in force, of which sampling took
8 s (single runs, beside other work).
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.host import processes
from testbed.host.directories import LabDirectories
from testbed.model.scenario import Traffic
from testbed.scenarios import LabUnderTest, check, find
from testbed.scenarios.requests import sender, traffic_spec
from testbed.statistics import EquivalenceTest, characteristics, fixed_sample_size, tolerated
from testbed.traffic import send
from testbed.workflows.loading import load_lab
from testbed.workflows.verify import lab_under_test

WAYS = (
    {"concurrency": 1},
    {"concurrency": 4},
    {"concurrency": 16},
    {"concurrency": 4, "connections": "new"},
    {"concurrency": 4, "protocol": "http2"},
)


def rates(lab: LabUnderTest, when: Traffic, requests: int) -> Iterator[str]:
    """A row for each way of sending."""
    yield f"{'connections':>12}{'protocol':>10}{'at once':>9}{'requests/s':>12}{'per CPU second':>16}"
    for way in WAYS:
        traffic = when.model_copy(update=way)
        who = sender(traffic, lab)
        with send(traffic_spec(traffic, lab, secrets.token_hex(4), requests), who.at, who.argv) as run:
            refused = sum(1 for sample in run if sample.status != 200)
        if refused:
            raise SystemExit(f"{refused} of {requests} requests were not answered with 200: this measures nothing")
        ended = run.summary
        each = f"{ended.sent / ended.seconds:>12.0f}{ended.sent / max(0.001, ended.cpu_seconds):>16.0f}"
        yield f"{traffic.connections:>12}{traffic.protocol:>10}{traffic.concurrency:>9}{each}"


# Seconds that the machine's processors were busy, and those of each control group of ours: "name microseconds".
SPENT = """read -r _ user nice system _ _ irq soft _ </proc/stat
echo busy $((user + nice + system + irq + soft))0000
for f in /sys/fs/cgroup/system.slice/system-testbed*/*.service/cpu.stat; do
  n=${f%/cpu.stat}; read -r _ used <$f; echo ${n##*/testbed-} $used
done"""


@dataclass(frozen=True)
class Spent:
    """Processor time so far, in seconds."""

    host: dict[str, float]
    """Machine -> of the host's processors."""
    inside: dict[str, dict[str, float]]
    """Machine -> sidecar or program -> by the machine's own account, and ``busy``: the machine as a whole."""

    @classmethod
    def now(cls, lab: LabUnderTest, lab_id: str) -> Spent:
        """Look at the host and into every machine."""
        tick = os.sysconf("SC_CLK_TCK")
        host = {}
        for process in processes.of_lab(LabDirectories(lab_id).state):
            if found := re.search(rf"guest={lab_id}-([^,]+),", " ".join(process.arguments)):
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                host[found[1]] = (int(fields[11]) + int(fields[12])) / tick
        inside = {}
        for workload in lab.topology.workloads:
            if workload.node not in inside:
                said = lab.backend.connection(workload.name).run(["bash", "-c", SPENT]).stdout.decode()
                rows = (line.split() for line in said.splitlines())
                inside[workload.node] = {name.removesuffix(".service"): int(us) / 1e6 for name, us in rows}
        return cls(host, inside)


def expenses(lab: LabUnderTest, lab_id: str, when: Traffic, requests: int) -> Iterator[str]:
    """Where a request's milliseconds of processor time go, at the concurrency that gets most through."""
    traffic = when.model_copy(update={"concurrency": 16})
    who = sender(traffic, lab)
    before, began = Spent.now(lab, lab_id), time.monotonic()
    with send(traffic_spec(traffic, lab, secrets.token_hex(4), requests), who.at, who.argv) as run:
        for _ in run:
            pass
    after, took = Spent.now(lab, lab_id), time.monotonic() - began
    host = {node: 1000 * (after.host[node] - before.host[node]) / requests for node in before.host}
    cores, each = os.cpu_count() or 1, sum(host.values())
    yield f"a request takes {each:.1f} ms of the host's {cores} processors: at most {1000 * cores / each:.0f}/s"
    yield f"(machines were {each * requests / 10 / took / cores:.0f}% of what the host can do)"
    for node, spent in sorted(host.items(), key=lambda row: -row[1]):
        rows = {n: 1000 * (v - before.inside[node][n]) / requests for n, v in after.inside[node].items()}
        busy = rows.pop("busy")
        parts = [f"{n} {ms:.1f}" for n, ms in sorted(rows.items(), key=lambda row: -row[1]) if ms >= 0.1]
        if traffic.from_ != "gateway" and who.caller is not None and node == who.caller.node:
            parts.append(f"agent {1000 * run.summary.cpu_seconds / requests:.1f}")
        yield f"{node:>12} {spent:5.1f} ms; in it {busy:.1f}: {', '.join(parts)}"


def verdict(lab: LabUnderTest, when: Traffic, requests: int) -> str:
    """How long the verdict on so many requests takes once the resources are in force."""
    given = when.model_copy(update={"requests": requests}).model_dump(by_alias=True, exclude_unset=True)
    record = check(lab, when=given, expect={"status": 200})
    [step] = record.steps
    seconds = record.seconds - step.apply_seconds
    sampling = f"sampling {step.sample_seconds:.1f} s"
    return f"{record.outcome} on {requests} requests {seconds:.1f} s after in force ({sampling})"


def shares() -> Iterator[str]:
    """Mean requests at a declared 50%, give or take 10 points, for a range of true shares."""
    zone = tolerated(0.5, 0.1)
    test = EquivalenceTest(zone, alpha=0.001, beta=0.001)
    yield f"{'true share':>10}{'mean requests':>15}{'says yes':>12}"
    for percent in range(30, 71, 5):
        found = characteristics(test, percent / 100)
        yield f"{percent:>9}%{found.mean_requests:>15.0f}{found.accept:>12.2%}"
    yield f"a fixed sample with the same chances: {fixed_sample_size(zone, alpha=0.001, beta=0.001)}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inventory", nargs="?", default="bookinfo")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--shares", action="store_true")
    options = parser.parse_args()
    if options.shares:
        print(*shares(), sep="\n")
        return
    lab = load_lab(options.inventory)
    [file] = find([lab.inventory.mesh.scenario or "reviews-split"])
    when = file.scenario.each_step()[0].when
    with lab.closing():
        under_test = lab_under_test(lab)
        for row in rates(under_test, when, options.requests):
            print(row, flush=True)
        for row in expenses(under_test, lab.id, when, options.requests):
            print(row, flush=True)
        print(verdict(under_test, when, options.requests))


if __name__ == "__main__":
    main()
