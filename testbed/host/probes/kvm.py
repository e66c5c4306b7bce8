"""Whether KVM runs 64-bit guests here.  A device node that opens, even a machine that starts, proves nothing:

some hosts offer a ``/dev/kvm`` that hangs or interprets a stock kernel.  So a guest is run that does what such a
kernel does first (``kvm_guest.S``), under a time limit, and the answer is kept until the next boot.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed.host.directories import cache_root
from testbed.host.finding import Finding, Level
from testbed.host.probes import kvm_guest

_DEVICE = Path("/dev/kvm")
_EMULATOR = "qemu-system-x86_64"


@dataclass(frozen=True)
class KvmVerdict:
    """Whether machines can use KVM, and how that is known.  ``seconds`` is how long finding out took."""

    usable: bool
    detail: str
    seconds: float


def verdict(limit: float = 5, *, refresh: bool = False) -> KvmVerdict:
    """The verdict for this boot of the host: remembered, else found by running the guest for ``limit`` seconds."""
    obvious = _obvious()
    if obvious:
        return KvmVerdict(False, obvious, 0.0)
    memory = cache_root() / "kvm.json"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not refresh:
        try:
            known = json.loads(memory.read_text())
            if known.pop("boot") == boot:
                return KvmVerdict(**known)
        except (OSError, ValueError, TypeError, KeyError):  # none yet, or another version's: find out
            pass
    found = run_guest("kvm", "host", limit)
    memory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=memory.parent, prefix=".kvm-", delete=False) as file:
        json.dump({"boot": boot, **asdict(found)}, file)
    Path(file.name).replace(memory)
    return found


def run_guest(accelerator: str, cpu: str, limit: float) -> KvmVerdict:
    """Run the guest with a QEMU accelerator and processor model; never longer than ``limit`` seconds."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="testbed-kvm-") as folder:
        program, steps = Path(folder) / "guest", Path(folder) / "steps"
        program.write_bytes(kvm_guest.PROGRAM)
        machine = ["-accel", accelerator, "-cpu", cpu, "-machine", "pc", "-m", "64", "-nodefaults", "-no-reboot"]
        channels = ["-display", "none", "-debugcon", f"file:{steps}", "-device", "isa-debug-exit,iobase=0xf4"]
        try:
            ended = subprocess.run(
                [_EMULATOR, *machine, *channels, "-kernel", program],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit,
                check=False,
            )
        except FileNotFoundError:
            return KvmVerdict(False, f"{_EMULATOR} is not installed", 0.0)
        except subprocess.TimeoutExpired:
            end = f"hung until {limit:g} s were over"
        else:
            if ended.returncode == kvm_guest.EXIT_STATUS:
                seconds = time.monotonic() - started
                return KvmVerdict(True, f"a 64-bit guest ran to its end in {seconds:.2f} s", seconds)
            said = ended.stderr.decode(errors="replace").strip().splitlines()
            cause = said[0].removeprefix(f"{_EMULATOR}: ") if said else f"status {ended.returncode}"
            end = f"QEMU ended: {cause}"
        done = steps.read_text(errors="replace") if steps.exists() else ""
    last = kvm_guest.STEPS.get(done[-1:])
    reached = f"a test guest came as far as {last}, then" if last else "a test guest did nothing:"
    return KvmVerdict(False, f"{reached} {end}", time.monotonic() - started)


def probe(limit: float = 5) -> list[Finding]:
    """One finding; without KVM everything works by emulation, several times slower."""
    found = verdict(limit)
    why = "without it machines are emulated: they start and answer several times slower"
    if found.usable:
        return [Finding("KVM", Level.OK, found.detail, why)]
    mend = "nothing to do; to have it, enable (nested) virtualization for this host and boot it again"
    fix: tuple[str, ...] | None = None
    if _DEVICE.exists() and not os.access(_DEVICE, os.R_OK | os.W_OK):
        fix = ("usermod", "-aG", "kvm", os.environ.get("USER", str(os.geteuid())))
        mend = " ".join(fix) + ", then log in again"
    return [Finding("KVM", Level.WARNING, f"no usable KVM: {found.detail}", why, mend, fix)]


def _obvious() -> str:
    if platform.machine() != "x86_64":
        return f"nodes are x86-64 machines, this host is {platform.machine()}"
    if not _DEVICE.exists():
        return "there is no /dev/kvm"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return "/dev/kvm may not be opened by this user"
    return ""
