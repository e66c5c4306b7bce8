"""How long a fault takes to bite and to be undone: median and range.

    python benchmarks/faults.py [INVENTORY] [NODE] [REPEATS]     (the lab is up; root)

Each bound is from the command's start until the hypervisor or the guest has confirmed it, so what happened did so
earlier.  A run whose fault did not prove itself is no figure.
"""

import statistics
import sys

from testbed.faults.breaking import Breaker
from testbed.model.fault import Fault
from testbed.workflows.loading import load_lab

KINDS = (
    {"kind": "freeze"},
    {"kind": "link-down"},
    {"kind": "slow-link", "delay": "50ms"},
    {"kind": "disk-stall"},
    {"kind": "cpu-starvation"},
    {"kind": "clock-jump", "by": "1h"},
    {"kind": "reset"},
    {"kind": "power-off"},
)


def main(inventory: str = "two-nodes", node: str = "right", repeats: str = "5") -> None:
    """Print a table."""
    with load_lab(inventory).closing() as lab:
        breaker = Breaker(lab)
        print("| fault | bites within | is undone within | machine well after |\n| --- | --- | --- | --- |")
        for values in KINDS:
            fault = Fault.model_validate({**values, "target": node})
            times = []
            for _ in range(int(repeats)):
                with breaker.breaking(fault) as made:
                    if not made.proof.held:
                        sys.exit(f"{fault.title} did not take hold: {made.proof.words}")
                    left = made
                times.append((left.bit - left.began, left.ended - left.ending, left.well - left.ended))
            columns = " | ".join(shown([t[i] for t in times]) for i in range(3))
            print(f"| {fault.title} | {columns} |", flush=True)


def shown(values: list[float]) -> str:
    """Median and range, in milliseconds."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle * 1000:.0f} ms ({low * 1000:.0f} to {high * 1000:.0f})"


if __name__ == "__main__":
    main(*sys.argv[1:])
