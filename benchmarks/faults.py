"""How long each kind of fault takes to bite and to be undone: median and range.

    python benchmarks/faults.py [INVENTORY] [NODE] [REPEATS] [KIND...]     (the lab is up; root)

Each bound is from the command's start until the hypervisor or the guest itself has confirmed it, so what happened
did so earlier.  After kinds that boot the machine, which are made once, it is well when it has booted and its
workloads do their work.  A fault that did not prove itself has no figures: its row says why, and
the run ends with 1.
"""

import statistics
import sys

from testbed.faults.breaking import Breaker
from testbed.model.fault import Fault, FaultKind
from testbed.workflows.loading import load_lab

OPTIONS = {
    FaultKind.SLOW_LINK: {"delay": "50ms"},
    FaultKind.LINK_FLAP: {"period": "400ms"},
    FaultKind.CLOCK: {"by": "1h"},
    FaultKind.CLOCK_DRIFT: {"drift": 5},
}


class NotHeld(Exception):
    """A fault did not take hold; in its own words."""


def main(inventory: str = "two-nodes", node: str = "right", repeats: str = "3", *kinds: str) -> int:
    """Print a table; how many faults did not take hold."""
    missed = 0
    with load_lab(inventory).closing() as lab:
        breaker = Breaker(lab)
        here = next(w.name for w in lab.topology.workloads if w.node == node and w.service and w.ports)
        away = next(w.name for w in lab.topology.workloads if w.node != node)
        print("| fault | bites within | is undone within | machine well after |\n| --- | --- | --- | --- |")
        for kind in map(FaultKind, kinds) if kinds else FaultKind:
            options = {"peer": away} if kind is FaultKind.PARTITION else OPTIONS.get(kind, {})
            target = here if kind.of_workload or kind is FaultKind.PARTITION else node
            fault = Fault.model_validate({"kind": kind, "target": target, **options})
            boots = kind.forgets or kind is FaultKind.RESTART
            try:
                times = [measured(breaker, fault) for _ in range(1 if boots else int(repeats))]
            except NotHeld as e:
                print(f"| `{kind}` | did not take hold: {e} | | |", flush=True)
                missed += 1
                continue
            columns = " | ".join(shown([t[i] for t in times]) for i in range(3))
            print(f"| `{kind}` | {columns} |", flush=True)
    return missed


def measured(breaker: Breaker, fault: Fault) -> tuple[float, float, float]:
    """Seconds to bite, to be undone, and to be well after that."""
    with breaker.breaking(fault) as made:
        if not made.proof.held:
            raise NotHeld(made.proof.words)
    breaker.settle([made])
    return made.bit - made.began, made.ended - made.ending, made.well - made.ended


def shown(values: list[float]) -> str:
    """Median and range, in milliseconds."""
    low, middle, high = min(values), statistics.median(values), max(values)
    span = f" ({low * 1000:.0f} to {high * 1000:.0f})" if len(values) > 1 else ""
    return f"{middle * 1000:.0f} ms{span}"


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
