"""Grips on a machine's root disk, from below: writes that are let through slowly, or not at all, or that fail."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.faults.inside import await_boot, in_guest
from testbed.faults.proof import Proof
from testbed.hypervisor.breaking import DomainBreaker
from testbed.hypervisor.machines import Power as DomainPower
from testbed.lab.lab import Lab
from testbed.plan.faults import DiskErrors, Throttle

DISK = "vda"
PROBE = "/var/tmp/testbed-fault.probe"  # noqa: S108 - in the guest
_RUNS = (DomainPower.RUNNING, DomainPower.PAUSED)


@dataclass
class ThrottleGrip:
    """What the hypervisor lets through to the root disk."""

    action: Throttle
    lab: Lab
    breaker: DomainBreaker

    def begin(self) -> None:
        """Throttle writes."""
        self.breaker.throttle_writes(self.action.node, DISK, self.action.write)

    def prove(self) -> Proof:
        """Four writes, each of what a second allows, do not end within one (QEMU lets a first one pass).  They are
        left behind in the guest: nothing can end a process that waits for its disk, until the disk goes on."""
        size = max(4096, self.action.write // 4096 * 4096)
        write = f"dd if=/dev/zero of={PROBE} bs={size} count=4 oflag=direct 2>/dev/null; rm -f {PROBE}"
        script = f"({write}; echo ended >/run/testbed-fault.probe) >/dev/null 2>&1 </dev/null &\nsleep 1\n"
        script = f"rm -f /run/testbed-fault.probe\n{script}cat /run/testbed-fault.probe 2>/dev/null || echo waits"
        _, said = in_guest(self.lab, self.action.node, script)
        return Proof(
            said == "waits", f"after 1 s four writes of {size} bytes " + ("waits" if said == "waits" else "ended")
        )

    def end(self) -> None:
        """Lift it."""
        if self.breaker.power(self.action.node) in _RUNS:
            self.breaker.throttle_writes(self.action.node, DISK, 0)

    def await_well(self) -> None:
        """Until a write gets through."""
        in_guest(self.lab, self.action.node, f"echo >{PROBE}; sync; rm {PROBE}")


@dataclass
class DiskErrorsGrip:
    """Writes that fail, below the guest's driver."""

    action: DiskErrors
    lab: Lab
    breaker: DomainBreaker

    def begin(self) -> None:
        """From the next write on."""
        self.breaker.fail_writes(self.action.node, DISK, fail=True)

    def prove(self) -> Proof:
        """A write ends with EIO, or finds that the file system has given up for one before; and the guest's kernel
        has the error from its disk."""
        script = (
            f"dd if=/dev/zero of={PROBE} bs=4k count=1 oflag=direct 2>&1 | sed -n 's/^dd: //p'\n"
            f"dmesg | grep -c 'I/O error, dev {DISK}, sector [0-9]* op 0x1:(WRITE)'"
        )
        *words, errors = in_guest(self.lab, self.action.node, script)[1].splitlines() or ["0"]
        said = "; ".join(words) or "the write succeeded"
        refused = "Input/output error" in said or "Read-only file system" in said
        return Proof(refused and errors not in ("", "0"), f"{said}; {errors} errors of {DISK} in the kernel's log")

    def end(self) -> None:
        """Let writes through, and press the reset button: what the file system has refused it goes on to refuse."""
        node = self.action.node
        if self.breaker.power(node) in _RUNS:
            self.breaker.fail_writes(node, DISK, fail=False)
            self.breaker.reset(node)
        else:
            self.breaker.hypervisor.start(node)
        self.lab.connection(node).close()

    def await_well(self) -> None:
        """It has booted."""
        await_boot(self.lab, self.action.node)
