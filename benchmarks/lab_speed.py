"""How long a lab takes to be there: `python benchmarks/lab_speed.py [INVENTORY] [--runs N]`.

In one run, side by side, each several times: an `up` that boots every machine (`--cold`), the very first one on a
host that has built the image and has no RAM image yet (a template is made first, and all machines start from it),
one of a lab that is new to a cache that has the template, a warm one, `reset`, `scale` by one and back, and a
snapshot (the pause of the machines, that of their services, and all of it).  What is kept for the next `up` is not
counted; making a template is.  Beside it what no program can be quicker than: reading the images' bytes from this
disk, and the processor time that the machines use from when their RAM is loaded until every edge has answered.

The lab is taken down, before and after, and what the cache has of it is deleted, its machines' templates included:
the next `up` of this lab, and of others with such machines, builds again.

`--rows FILE` adds the runs to those that FILE has, so that they can be made at different times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from testbed.host import processes
from testbed.host.directories import LabDirectories
from testbed.lab.lab import Lab
from testbed.lab.snapshots import cache_store, template_store
from testbed.lab.snapshots.templates import template_lab
from testbed.model.reading import instance_name
from testbed.workflows.loading import load_lab

COMMAND = [sys.executable, "-c", "from testbed.cli import main; main()"]
NAME = "benchmark"


def testbed(*arguments: str) -> str:
    """Run a command; its output."""
    return subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def timed(*arguments: str) -> tuple[float, dict]:
    """A command's seconds, from its start to its end, and its report."""
    began = time.monotonic()
    report = json.loads(testbed(*arguments, "--json"))
    return time.monotonic() - began, report


def cpu_seconds(lab_id: str) -> float:
    """What the machines' emulators have used so far."""
    ticks = 0
    for process in processes.of_lab(LabDirectories(lab_id).state):
        if process.name.startswith("qemu-"):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def read_seconds(files: list[Path]) -> float:
    """To read them from the disk, one after another, with nothing of them in memory."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.monotonic()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 22):
                pass
    return time.monotonic() - began


def forget(lab: Lab, *, templates: bool) -> None:
    """Delete what the cache has of the lab; ``templates``: those of its machines, too."""
    kinds = {template_lab(lab, node).id for node in lab.inventory.nodes} if templates else set()
    for store, ids in ((cache_store(lab.id), {lab.id}), (template_store(), kinds)):
        for snapshot in store.all():
            if snapshot.manifest.lab in ids:
                store.delete(snapshot)


@dataclass(frozen=True)
class Built:
    """An `up` of a lab that the cache did not have."""

    template: float
    """Seconds to make templates; 0 when there were some."""
    ready: float
    """Seconds from the first step's start until the last machine answers."""
    verified: float
    """Seconds of the whole command, what it keeps for the next one left out."""

    @classmethod
    def measure(cls, inventory: str, lab: Lab, *options: str, templates: bool) -> Built:
        """``templates``: delete them first."""
        testbed("down", "-i", inventory)
        forget(lab, templates=templates)
        total, report = timed("up", "-i", inventory, *options)
        if {"image", "shared-disk"} & set(report["steps"]):  # of a host that had none; now it has
            return cls.measure(inventory, lab, *options, templates=templates)
        if report["verdict"] not in ("PASS", None):
            sys.exit(f"the scenario ended with {report['verdict']}: this run measures nothing")
        cloned = any(step.startswith("clone:") for step in report["ended"])
        if report["restored"] or report["not_cloned"] or cloned == ("--cold" in options):
            sys.exit(f"the machines started in another way: this run measures nothing: {report['not_cloned']}")
        made = sum(seconds for step, seconds in report["steps"].items() if step.startswith("template:"))
        if bool(made) != (templates and cloned):
            sys.exit(f"{made:.1f} s went into templates: this run measures nothing")
        ready = max(seconds for step, seconds in report["ended"].items() if step.startswith("boot:"))
        return cls(made, ready, total - report["stages"].get("keep", 0.0))


def measure(inventory: str, lab: Lab, workload: str) -> dict[str, float]:
    """One of each, in seconds and MiB; ``workload`` is the one that is scaled."""
    cold = Built.measure(inventory, lab, "--cold", templates=True)
    first = Built.measure(inventory, lab, templates=True)
    clones = Built.measure(inventory, lab, templates=False)
    testbed("down", "-i", inventory)
    warm, report = timed("up", "-i", inventory)
    if not report["restored"]:
        sys.exit("the cache had no such lab: this run measures nothing")
    thawed = max(report["ended"][s] for s in report["ended"] if s.startswith("thaw:"))
    save, snapshot = timed("snapshot", "save", "-i", inventory, NAME)
    files = sorted(Path(snapshot["folder"]).glob("*.ram")) + sorted(Path(snapshot["folder"]).glob("*.qcow2"))
    read = read_seconds(files)
    testbed("snapshot", "delete", "-i", inventory, NAME)
    reset, _ = timed("reset", "-i", inventory)
    cpu = cpu_seconds(lab.id)
    more, _ = timed("scale", "-i", inventory, workload, "2")
    fewer, _ = timed("scale", "-i", inventory, workload, "1")
    return {
        "cold ready": cold.ready,
        "cold verified": cold.verified,
        "template": first.template,
        "first ready": first.ready,
        "first verified": first.verified,
        "clones ready": clones.ready,
        "clones verified": clones.verified,
        "warm thawed": thawed,
        "warm up": warm,
        "reset": reset,
        "cpu reset": cpu,
        "scale +1": more,
        "scale -1": fewer,
        "save": save,
        "pause": snapshot["pause"],
        "standing": snapshot["standing"],
        "MiB": snapshot["bytes"] / 2**20,
        "read": read,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inventory", nargs="?", default="bookinfo")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=Path, help="a file of runs to add to")
    options = parser.parse_args()
    lab = load_lab(options.inventory)
    single = next(w for w in lab.inventory.workloads if w.program != "none" and w.replicas == 1)
    runs = []
    if options.rows and options.rows.exists():
        runs = [json.loads(line) for line in options.rows.read_text().splitlines()]
    try:
        for number in range(options.runs):
            runs.append(measure(options.inventory, lab, instance_name(single, 0)))
            if options.rows:
                options.rows.write_text("".join(json.dumps(run) + "\n" for run in runs))
            if number == 0:
                print("run  " + "".join(f"{name:>17}" for name in runs[0]))
            print(f"{number + 1:<5}" + "".join(f"{value:>17.1f}" for value in runs[-1].values()), flush=True)
    finally:
        testbed("down", "-i", options.inventory)
    for name, of in (("mid", statistics.median), ("min", min), ("max", max)):
        print(f"{name:<5}" + "".join(f"{of([r[k] for r in runs]):>17.1f}" for k in runs[0]))


if __name__ == "__main__":
    main()
