"""Which faults this host can make, and which it makes in another way than one might think."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache

from testbed.host.finding import Finding, Level
from testbed.host.probes import emulator
from testbed.plan.faults import no_server

_MISSING = "nft is missing"
_RULES = """table bridge testbed-probe {
  chain forward { type filter hook forward priority -200; ip saddr 192.0.2.1 counter drop; }
}
"""


def probe(backend: str = "standalone") -> list[Finding]:
    """Changes nothing: the filter is tried in a network namespace that ends with the probe."""
    why = "scenarios with a partition are not applicable without it"
    reason = no_bridge_filter()
    filtered = Finding("faults: partition", Level.OK, "packets can be lost and counted on a bridge", why)
    if reason:
        missing = reason == _MISSING
        mend = "apt install nftables" if missing else "run as root, on a kernel with nf_tables for bridges"
        package = "nftables" if missing else ""
        filtered = Finding("faults: partition", Level.WARNING, reason, why, mend, package=package)
    shaped = "made in the guest, which shapes what it sends: the same on every host"
    starved = "made by a hog in the guest: libvirt's quota needs the CPU cgroup, and the lab's daemon uses none"
    return [
        filtered,
        *(_no_server(only, backend) for only in ("dns", "control-plane")),
        _disk_errors(),
        Finding("faults: slow-link", Level.OK, shaped, "a delay set for one machine delays its answers"),
        Finding("faults: cpu-starvation", Level.OK, starved, "it takes time from the guest's own processes"),
    ]


def _no_server(only: str, backend: str) -> Finding:
    why = "a partition from that alone is not applicable; nothing is missing on the host"
    return Finding(f"faults: partition, only {only}", Level.OK, no_server(only, backend), why)


def _disk_errors() -> Finding:
    why = "scenarios whose disks fail are not applicable without it"
    if shutil.which(emulator.PROGRAM) is None:
        return Finding("faults: disk-errors", Level.WARNING, "QEMU is missing", why)
    version = emulator.version()
    if reason := no_disk_errors(version):
        return Finding("faults: disk-errors", Level.WARNING, reason, why, "use a newer release of the distribution")
    return Finding("faults: disk-errors", Level.OK, f"QEMU {version} fails writes to a disk in use", why)


def no_disk_errors(version: str) -> str:
    """Why a QEMU of this version can't let a disk in use fail; empty when it can, or when the version is no number.

    blockdev-reopen became stable with QEMU 6.1.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < (6, 1):
        return f"QEMU {version} can't put anything under a disk that is in use, 6.1 can"
    return ""


@cache
def no_bridge_filter() -> str:
    """Why packets can't be filtered on a bridge here; empty when they can."""
    if shutil.which("nft") is None:
        return _MISSING
    if os.geteuid() != 0:
        return "only root may filter packets on a bridge"
    argv = ["unshare", "--net", "nft", "-f", "-"]
    done = subprocess.run(argv, input=_RULES, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"nft refuses a filter on bridges: {done.stderr.strip().splitlines()[0]}"
