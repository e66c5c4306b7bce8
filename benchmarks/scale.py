"""Where the time of a `scale` goes: `python benchmarks/scale.py [INVENTORY] [--runs N]`, on a lab that is up.

Scales a workload by one and back, and says of each: the whole command; what goes by before its first step; the step
that sets the new instance up until its proxy is in force (the other nodes are looked at meanwhile); the one that
tells all others; and the processor time of all machines.  Then restarts a proxy that is there, twice: an emulator
keeps what it has translated, so a second start shows what a proxy takes where the first one was not long ago.
"""

from __future__ import annotations

import argparse
import statistics
import time

from lab_speed import cpu_seconds, testbed, timed

from testbed.lab.lab import Lab
from testbed.model.reading import instance_name, nodes_of
from testbed.workflows.loading import load_lab

RESTART = """
systemctl restart "testbed-sidecar@$1"
exec nsenter "--net=/run/netns/$1" bash -c '
until (exec 3<>/dev/tcp/127.0.0.1/15021) 2>/dev/null; do sleep 0.1; done'
"""
"""The health port is open once all is there that a proxy waits for."""


def scaled(inventory: str, lab: Lab, workload: str) -> dict[str, float]:
    """One more instance, and one less."""
    cpu = cpu_seconds(lab.id)
    more, report = timed("scale", "-i", inventory, workload, "2")
    used = cpu_seconds(lab.id) - cpu
    fewer, _ = timed("scale", "-i", inventory, workload, "1")
    steps = report["steps"]
    before = more - max(report["ended"].values())
    return {
        "+1": more,
        "before": before,
        "set up": steps["workloads"],
        "told": steps["mesh"],
        "cpu": used,
        "-1": fewer,
    }


def restarted(lab: Lab, workload: str) -> float:
    """Seconds until a proxy that is started again is ready."""
    [node, *_] = nodes_of(lab.inventory, workload)
    connection = lab.connection(node)
    connection.connect()
    began = time.monotonic()
    connection.run(["bash", "-c", RESTART, "bash", workload], limit=120)
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inventory", nargs="?", default="bookinfo")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--reset", action="store_true", help="reset the lab before each: nothing is translated then"
    )
    options = parser.parse_args()
    with load_lab(options.inventory).closing() as lab:
        workload = next(
            instance_name(w, 0) for w in lab.inventory.workloads if w.program != "none" and w.replicas == 1
        )
        runs = []
        for number in range(options.runs):
            if options.reset:
                testbed("reset", "-i", options.inventory)
                lab.forget_connections()
            runs.append(scaled(options.inventory, lab, workload))
            if number == 0:
                print("run  " + "".join(f"{name:>9}" for name in runs[0]))
            print(f"{number + 1:<5}" + "".join(f"{value:>9.1f}" for value in runs[-1].values()), flush=True)
        print("mid  " + "".join(f"{statistics.median(r[name] for r in runs):>9.1f}" for name in runs[0]))
        first, second = restarted(lab, workload), restarted(lab, workload)
        print(f"{workload}'s proxy, started again: {first:.1f} s, then {second:.1f} s")


if __name__ == "__main__":
    main()
