"""How each action is begun, proved and ended on its machine.

Ending is safe to repeat, and works without having begun: whoever finds a note of a killed command ends the
fault with a grip of his own.
"""

from __future__ import annotations

import shlex
import threading
from dataclasses import dataclass, field
from typing import Protocol

from testbed.errors import LabError
from testbed.faults import network
from testbed.faults.certificates import CertificateGrip
from testbed.faults.disks import DiskErrorsGrip, ThrottleGrip
from testbed.faults.inside import GuestGrip, RestartGrip, await_answer, await_boot, in_guest, proved_boot
from testbed.faults.proof import Proof
from testbed.faults.slow import SlowGrip
from testbed.hypervisor.breaking import DomainBreaker
from testbed.hypervisor.machines import Power as DomainPower
from testbed.lab.lab import Lab
from testbed.lab.machines import MESH, tap_name
from testbed.model.fault import FaultKind
from testbed.plan.faults import (
    Action,
    Balloon,
    Certificate,
    DiskErrors,
    Link,
    Power,
    Silence,
    Throttle,
    Upgrade,
)
from testbed.plan.guestfaults import MESH_NIC, InGuest, SlowLink
from testbed.waiting import NotYet, wait_until

CARRIER = f"/sys/class/net/{MESH_NIC}/carrier"
CONSOLE_LIMIT = 10.0


class Grip(Protocol):
    """One action's hold on one machine."""

    def begin(self) -> None:
        """Break it; returns when it is broken."""
        ...

    def prove(self) -> Proof:
        """Measure that it is broken."""
        ...

    def end(self) -> None:
        """Mend it; nothing to mend is no error."""
        ...

    def await_well(self) -> None:
        """Wait until the machine does its work again."""
        ...


class Upgrades(Protocol):
    """Who can bring a lab to the releases of its inventory."""

    def pending(self) -> tuple[str, ...]:
        """What would be done, a step each; none when the lab runs these releases."""
        ...

    def perform(self) -> str:
        """Do it; what was seen of it in the end."""
        ...


def grip_of(action: Action, lab: Lab, fault: str, upgrades: Upgrades | None = None) -> Grip:  # noqa: PLR0911
    """The grip for an action of the fault with that id."""
    breaker = DomainBreaker(lab.hypervisor())
    match action:
        case Power(how=FaultKind.RESTART):
            return RestartGrip(action, lab)
        case Power():
            return PowerGrip(action, lab, breaker)
        case Link():
            return LinkGrip(action, lab, breaker)
        case Silence():
            return SilenceGrip(action, lab, fault)
        case Throttle():
            return ThrottleGrip(action, lab, breaker)
        case DiskErrors():
            return DiskErrorsGrip(action, lab, breaker)
        case Balloon():
            return BalloonGrip(action, lab, breaker)
        case InGuest():
            return GuestGrip(action, lab)
        case SlowLink():
            return SlowGrip(action, lab)
        case Certificate():
            return CertificateGrip(action, lab)
        case Upgrade():
            return UpgradeGrip(action, upgrades)


@dataclass
class PowerGrip:
    """The machine as a whole, by words to the hypervisor."""

    action: Power
    lab: Lab
    breaker: DomainBreaker
    frames: int = 0
    boot: str = ""
    console: int = 0

    def begin(self) -> None:
        """Freeze, cut, reset or crash it."""
        node, how = self.action.node, self.action.how
        if how is FaultKind.FREEZE:
            self.breaker.freeze(node)
            self.frames = self._frames()
        elif how is FaultKind.POWER_OFF:
            self.breaker.cut_power(node)
        elif how is FaultKind.RESET:
            self.boot = self._boot_id()
            self.breaker.reset(node)
        else:
            self.console = len(self._console())
            self.breaker.interrupt(node)
        self.lab.connection(node).close() if how is not FaultKind.FREEZE else None

    def prove(self) -> Proof:
        """State and frames of the domain; for a crash the kernel's last words; for a reset another boot."""
        node, how = self.action.node, self.action.how
        if how is FaultKind.CRASH:
            return self._panicked()
        if how is FaultKind.RESET:
            revived = await_answer(self.lab, node)
            now = self._boot_id()
            return Proof(bool(self.boot) and now != self.boot, proved_boot(self.boot, now, revived))
        power = self.breaker.power(node)
        if how is FaultKind.POWER_OFF:
            return Proof(power is DomainPower.SHUTOFF, f"the domain is {power}")
        sent = self._frames() - self.frames
        return Proof(power is DomainPower.PAUSED and sent == 0, f"the domain is {power} and has sent {sent} frames")

    def end(self) -> None:
        """Let it go on, or boot it."""
        node = self.action.node
        power = self.breaker.power(node)
        if self.action.how is FaultKind.CRASH and power is not DomainPower.SHUTOFF and not self._answers():
            self.breaker.cut_power(node)
        if self.action.how is not FaultKind.FREEZE:
            self.lab.connection(node).close()
        self.breaker.hypervisor.start(node)

    def await_well(self) -> None:
        """It answers, its clock is right (a frozen one stood), and its proxies are ready."""
        node = self.action.node
        if self.action.how is FaultKind.FREEZE:
            await_answer(self.lab, node)
            in_guest(self.lab, node, "date -s @$NOW >/dev/null")
        else:
            await_boot(self.lab, node)

    def _frames(self) -> int:
        return self.breaker.frames_sent(self.action.node, tap_name(self.lab, MESH, self.action.node))

    def _boot_id(self) -> str:
        return in_guest(self.lab, self.action.node, "cat /proc/sys/kernel/random/boot_id")[1]

    def _console(self) -> bytes:
        file = self.lab.directories.consoles / f"{self.action.node}.log"
        return file.read_bytes() if file.exists() else b""

    def _panicked(self) -> Proof:
        def said() -> str:
            for line in self._console()[self.console :].decode(errors="replace").splitlines():
                if "Kernel panic" in line:
                    return line.strip()
            raise NotYet("no panic on its console")

        try:
            words = wait_until(f"{self.action.node} panics", said, limit=CONSOLE_LIMIT, interval=0.1)
        except TimeoutError as e:
            return Proof(False, str(e))
        return Proof(True, f"its console says: {words}")

    def _answers(self) -> bool:
        try:
            self.lab.connection(self.action.node).connect(limit=3)
        except LabError:
            return False
        return True


@dataclass
class LinkGrip:
    """The cable of the mesh NIC."""

    action: Link
    lab: Lab
    breaker: DomainBreaker
    stopped: threading.Event = field(default_factory=threading.Event)
    flapping: threading.Thread | None = None
    changes: int = 0

    def begin(self) -> None:
        """Unplug it; with a period, again and again."""
        if self.action.period:
            self.changes = self._changes()
        self._set(up=False)
        if self.action.period:
            self.flapping = threading.Thread(target=self._flap, name=f"flap {self.action.node}", daemon=True)
            self.flapping.start()

    def _flap(self) -> None:
        up = False
        while not self.stopped.wait(self.action.period / 2):
            up = not up
            self._set(up=up)

    def prove(self) -> Proof:
        """The guest sees no carrier; of a flapping link, that it went and came."""
        if not self.action.period:
            said = in_guest(self.lab, self.action.node, f"cat {CARRIER}")[1]
            return Proof(said == "0", f"the guest's carrier is {said}")

        def flapped() -> int:
            if (seen := self._changes() - self.changes) < 2:
                raise NotYet(f"{seen} changes")
            return seen

        try:
            limit = 10 + 3 * self.action.period
            seen = wait_until(f"{self.action.node} sees its carrier go and come", flapped, limit=limit)
        except TimeoutError as e:
            return Proof(False, str(e))
        return Proof(True, f"the guest has seen {seen} changes of its carrier")

    def end(self) -> None:
        """Plug it in."""
        self.stopped.set()
        if self.flapping is not None:
            self.flapping.join()
        if self.breaker.power(self.action.node) in (DomainPower.RUNNING, DomainPower.PAUSED):
            self._set(up=True)

    def await_well(self) -> None:
        """Nothing to wait for: the guest sees its carrier at once."""

    def _changes(self) -> int:
        return int(in_guest(self.lab, self.action.node, f"cat {CARRIER}_changes")[1])

    def _set(self, *, up: bool) -> None:
        node = self.action.node
        self.breaker.set_carrier(node, tap_name(self.lab, MESH, node), up=up)


@dataclass
class SilenceGrip:
    """A filter on the bridge."""

    action: Silence
    lab: Lab
    fault: str

    def begin(self) -> None:
        """Lose packets from now on."""
        network.silence(self.lab, self.fault, self.action)

    def prove(self) -> Proof:
        """Try to get through, past the sidecar, and count what the filter has eaten."""
        namespace, address = self.action.probe
        inside = f"ip netns exec {shlex.quote(namespace)} " if namespace else ""
        script = f"{inside}ping -q -c 2 -i 0.2 -W 1 {address} >/dev/null"
        if self.action.port is not None:
            stranger = "setpriv --reuid 1337 --regid 1337 --clear-groups"
            script = f"{inside}{stranger} timeout 1 bash -c 'exec 3<>/dev/tcp/{address}/{self.action.port}'"
        answered = in_guest(self.lab, self.action.node, script)[0] == 0
        count = network.lost(self.lab, self.fault)
        words = f"{count} packets were lost on the bridge" + (", and yet something got through" if answered else "")
        return Proof(count > 0 and not answered, words)

    def end(self) -> None:
        """Let them through."""
        network.restore(self.lab, self.fault)

    def await_well(self) -> None:
        """Nothing to wait for."""


_NEAR = 32 * 1024**2
"""So many bytes more than shall be left is near enough: a guest's own use of memory goes up and down."""


@dataclass
class BalloonGrip:
    """What the balloon leaves the guest."""

    action: Balloon
    lab: Lab
    breaker: DomainBreaker
    left: int = 0
    """Bytes that it shall leave the guest."""

    def begin(self) -> None:
        """Inflate it until only so much is available as shall be."""
        spare = self._available() - self.action.leave
        if spare <= 0:
            cause = f"only {self._available() >> 20} MiB are available as it is"
            raise LabError(self.action.node, "take memory from it", cause, "leave less")
        self._leave(self.action.whole - spare)

    def prove(self) -> Proof:
        """What the guest's kernel calls available.  It may find more on the way, such as what a process that ended
        had: once the balloon is where it was sent, it is sent after that."""

        def taken() -> int:
            available = self._available()
            if available > self.action.leave + _NEAR:
                if self.breaker.memory(self.action.node) <= self.left:
                    self._leave(self.left - (available - self.action.leave))
                raise NotYet(f"{available >> 20} MiB are available")
            return available

        try:
            available = wait_until(f"{self.action.node} loses memory", taken, limit=15)
        except TimeoutError as e:
            return Proof(False, str(e))
        return Proof(True, f"{available >> 20} MiB are available in the guest")

    def end(self) -> None:
        """Deflate it."""
        if self.breaker.power(self.action.node) in (DomainPower.RUNNING, DomainPower.PAUSED):
            self.breaker.set_memory(self.action.node, self.action.whole)

    def await_well(self) -> None:
        """Until the guest has it again."""

        def back() -> None:
            if (available := self._available()) <= self.action.leave + 16 * 1024**2:
                raise NotYet(f"{available >> 20} MiB are available")

        wait_until(f"{self.action.node} has its memory again", back, limit=30)

    def _leave(self, size: int) -> None:
        self.left = size
        self.breaker.set_memory(self.action.node, size)

    def _available(self) -> int:
        script = "while read -r name size _; do [ $name = MemAvailable: ] && echo $size; done </proc/meminfo"
        return int(in_guest(self.lab, self.action.node, script)[1]) * 1024


@dataclass
class UpgradeGrip:
    """The lab as its inventory has it now: no fault, and yet something that callers should not notice."""

    action: Upgrade
    upgrades: Upgrades | None
    seen: str = ""

    def begin(self) -> None:
        """Do all of it.  What breaks off is gone on with by the next try, or by ``testbed up``."""
        if self.upgrades is None:
            raise LabError("cluster", "upgrade it", "nobody here can", "run: testbed up")
        self.seen = self.upgrades.perform()

    def prove(self) -> Proof:
        """Nothing is left to do, and what the nodes say that they run."""
        left = self.upgrades.pending() if self.upgrades is not None else ("all of it",)
        return Proof(not left, f"left to do: {', '.join(left)}" if left else self.seen)

    def end(self) -> None:
        """There is no way back."""

    def await_well(self) -> None:
        """It was waited for."""
