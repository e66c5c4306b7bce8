"""How long `up` takes, by stage: `python benchmarks/up.py [INVENTORY] [--runs N]`.

Each run begins without the lab and with a cached image, and builds the machines; `--fresh` empties the image cache
before the first one.  `benchmarks/lab_speed.py` measures labs that are restored.
Prints a row per run, then the median and the spread.  Stages overlap (a machine may wait while another boots),
so they don't add up to the total.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time

from testbed.host.directories import cache_root

COMMAND = [sys.executable, "-c", "from testbed.cli import main; main()"]


def testbed(*arguments: str) -> str:
    """Run a command; its output."""
    return subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(inventory: str) -> dict[str, float]:
    """One `up` and one `down`, in seconds."""
    testbed("down", "-i", inventory)
    report = json.loads(testbed("up", "-i", inventory, "--cold", "--json"))
    if report["verdict"] not in ("PASS", None):
        sys.exit(f"the scenario ended with {report['verdict']}: this run measures nothing")
    again = time.monotonic()
    testbed("up", "-i", inventory)
    nothing = time.monotonic() - again
    began = time.monotonic()
    testbed("down", "-i", inventory)
    ready = max(report["ended"][s] for s in report["ended"] if s.startswith("boot:"))
    return {
        "machines ready": ready,
        **report["stages"],
        "verified": round(report["seconds"] - report["stages"].get("keep", 0.0), 2),
        "up again": round(nothing, 2),
        "down": round(time.monotonic() - began, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inventory", nargs="?", default="bookinfo")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    if options.fresh:
        for folder in ("images", "shared", "artifacts"):
            shutil.rmtree(cache_root() / folder, ignore_errors=True)
    runs = []
    for number in range(options.runs):
        runs.append(measure(options.inventory))
        if number == 0:
            print("run  " + "".join(f"{name:>16}" for name in runs[0]))
        print(f"{number + 1:<5}" + "".join(f"{seconds:>14.1f} s" for seconds in runs[-1].values()), flush=True)
    for name, of in (("mid", statistics.median), ("min", min), ("max", max)):
        print(f"{name:<5}" + "".join(f"{of([r.get(k, 0.0) for r in runs]):>14.1f} s" for k in runs[0]))


if __name__ == "__main__":
    main()
