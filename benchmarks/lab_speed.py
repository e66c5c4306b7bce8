"""How long a lab takes to be there: `python benchmarks/lab_speed.py [INVENTORY] [--runs N] [--install-peers]`.

In one run, side by side, each several times: an `up` that boots every machine (`--cold`), the very first one on a
host that has built the image and has no RAM image yet (a template is made first, and all machines start from it),
one of a lab that is new to a cache that has the template, a warm one, `reset`, `scale` by one and back, and a
snapshot (the pause of the machines, that of their services, and all of it).  What is kept for the next `up` is not
counted; making a template is.  Beside it what no program can be quicker than: reading the images' bytes from this
disk, and the processor time that the machines use from when their RAM is loaded until every edge has answered.

In the same run, with the lab down: the time until as many machines answer on SSH (`--machines`: another number)
when others start them from the same disk, each with its own defaults: `virt-install --import`, one by one;
`vagrant up` with vagrant-libvirt; `kcli create vm`. They have a libvirt daemon and a network namespace of their
own (`benchmarks/peers`). "x clones" and "x first" say how many times as long the quickest of them takes as our
machines, from the template and with the template made first; both counted from a command's start until the last
machine answers. A peer that is not installed, or fails, is left out, and why is printed. `--install-peers`
installs the Debian packages of `benchmarks/packages.txt`, and kcli, in the versions of `constraints/peers.txt`,
into a virtual environment in the cache; both from wherever apt and pip take such things here. `--no-peers`
measures only ours.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers import ALL, Host, measure_peers, ratio
from peers.installing import install

from testbed.host import processes
from testbed.host.directories import LabDirectories
from testbed.lab.disks import Disks
from testbed.lab.lab import Lab
from testbed.lab.snapshots import cache_store, template_store
from testbed.lab.snapshots.templates import template_lab
from testbed.model.reading import instance_name
from testbed.workflows.loading import load_lab

COMMAND = [sys.executable, "-c", "from testbed.cli import main; main()"]
NAME = "benchmark"
TARGETS = {"x clones": 6.0, "x first": 2.0}
"""How many times as long the quickest peer should take."""


def testbed(*arguments: str) -> str:
    """Run a command; its output."""
    return subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def timed(*arguments: str) -> tuple[float, dict]:
    """A command's seconds until it reports (to end takes it some more), and its report."""
    began = time.monotonic()
    with subprocess.Popen([*COMMAND, *arguments, "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.read(1)
        took = time.monotonic() - began
        text += process.stdout.read()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return took, json.loads(text)


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
    answering: float
    """Seconds from the command's start until the last machine answers."""
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
        before = total - report["seconds"] + report["planned"]
        return cls(made, ready, before + ready, total - report["stages"].get("keep", 0.0))


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
        "first answering": first.answering,
        "first verified": first.verified,
        "clones ready": clones.ready,
        "clones answering": clones.answering,
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


def with_peers(row: Mapping[str, float], seconds: Mapping[str, float]) -> dict[str, float]:
    """A run with what the peers took in it, and how many times as long as ours the quickest one did."""
    ratios = {
        "x clones": ratio(seconds, row["clones answering"]),
        "x first": ratio(seconds, row["first answering"]),
    }
    return {**row, **seconds, **{name: value for name, value in ratios.items() if value is not None}}


def columns(runs: Sequence[Mapping[str, float]]) -> list[str]:
    """What was measured in any run, in the order in which it was."""
    return list(dict.fromkeys(name for run in runs for name in run))


def line(label: str, names: Sequence[str], values: Mapping[str, float]) -> str:
    """A line of the table; what a run has not measured stays empty."""
    cells = (f"{values[name]:.1f}" if name in values else "" for name in names)
    return f"{label:<5}" + "".join(f"{cell:>17}" for cell in cells)


def summary(runs: Sequence[Mapping[str, float]]) -> list[str]:
    """Median and spread of each column, and whether the peers are far enough behind."""
    names = columns(runs)
    by: tuple[tuple[str, Callable[[list[float]], float]], ...]
    by = (("mid", statistics.median), ("min", min), ("max", max))
    found = {name: [run[name] for run in runs if name in run] for name in names}
    lines = [line(label, names, {name: of(values) for name, values in found.items()}) for label, of in by]
    for name, target in TARGETS.items():
        if name in found:
            middle = statistics.median(found[name])
            held = "held" if middle >= target else "missed"
            lines.append(f"{name}: {middle:.1f}, the target of {target:g} is {held}")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inventory", nargs="?", default="bookinfo")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=Path, help="a file of runs to add to")
    parser.add_argument("--no-peers", action="store_true", help="measure only ours")
    parser.add_argument("--only-peers", action="store_true", help="measure only them, once")
    parser.add_argument("--install-peers", action="store_true", help="install what is missing of them first")
    parser.add_argument("--machines", type=int, help="how many the peers start (default: the lab's)")
    options = parser.parse_args()
    for trouble in install() if options.install_peers else []:
        print(f"not installed: {trouble}")
    lab = load_lab(options.inventory)
    count = options.machines or len(lab.inventory.nodes)
    if options.only_peers:
        measured = measure_peers(Host(), Disks.of(lab.inventory).node_image, count)
        print_skipped(measured.skipped)
        for name, seconds in measured.seconds.items():
            print(f"{name:<14}{seconds:>7.1f}")
        return
    single = next(w for w in lab.inventory.workloads if w.program != "none" and w.replicas == 1)
    runs = []
    if options.rows and options.rows.exists():
        runs = [json.loads(text) for text in options.rows.read_text().splitlines()]
    try:
        for number in range(options.runs):
            row = measure(options.inventory, lab, instance_name(single, 0))
            if not options.no_peers:
                testbed("down", "-i", options.inventory)
                measured = measure_peers(Host(), Disks.of(lab.inventory).node_image, count)
                row = (
                    with_peers(row, measured.seconds)
                    if count == len(lab.inventory.nodes)
                    else row | measured.seconds
                )
                if number == 0:
                    print_skipped(measured.skipped)
            runs.append(row)
            if options.rows:
                options.rows.write_text("".join(json.dumps(run) + "\n" for run in runs))
            if number == 0:
                print("run  " + "".join(f"{name:>17}" for name in columns(runs)))
            print(line(str(number + 1), columns(runs), row), flush=True)
    finally:
        testbed("down", "-i", options.inventory)
    print("\n".join(summary(runs)))


def print_skipped(skipped: Mapping[str, str]) -> None:
    """Say which peers are not measured."""
    for peer in ALL:
        if peer.name in skipped:
            print(f"{peer.name} is not measured: {skipped[peer.name]}", flush=True)


if __name__ == "__main__":
    main()
