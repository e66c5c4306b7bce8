"""Break machines and mend them.  A fault is noted in libvirt before it is made, and the note goes last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from testbed.backends.istio.homes import bound_pods, bring_home
from testbed.errors import LabError, NotApplicable, TestbedError, bad_input
from testbed.faults import network
from testbed.faults.grips import Grip, Upgrades, grip_of
from testbed.faults.proof import Proof, together
from testbed.faults.records import Standing, new_standing, read_standing
from testbed.host.probes.faults import no_bridge_filter, no_disk_errors
from testbed.hypervisor.breaking import DomainBreaker
from testbed.lab.halfopen import close_half_open
from testbed.lab.lab import Lab
from testbed.log import get
from testbed.model.fault import Fault, FaultKind
from testbed.plan.faults import (
    Action,
    DiskErrors,
    Machine,
    NoSuchTarget,
    NothingToBreak,
    Silence,
    actions_of,
    conflict,
    doubled,
    parts_of,
)


class StillBroken(LabError):
    """A fault on a target that has another one, with which it can't be put together."""

    def __init__(self, fault: Fault, other: Fault, reason: str) -> None:
        hint = f"it is {other.title}; testbed fault clear ends it"
        super().__init__(", ".join(fault.target), f"make the fault {fault.kind}", reason, hint)
        self.other = other


@dataclass
class Made:
    """A fault that was made.  Times are seconds of the host's monotonic clock; 0 while they lie ahead."""

    fault: Fault
    id: str
    nodes: tuple[str, ...]
    began: float = 0.0
    """When the command was given; it bit between then and ``bit``."""
    bit: float = 0.0
    ending: float = 0.0
    """When mending began."""
    ended: float = 0.0
    """When it was mended from below; a machine that boots has a way to go from there."""
    well: float = 0.0
    """When the machines did their work again."""
    proof: Proof = field(default_factory=lambda: Proof(False, "not measured yet"))


class NotMended(LabError):
    """Some of what stood could not be undone; every other fault was, and is in ``mended``."""

    def __init__(self, trouble: Sequence[TestbedError], mended: Sequence[Made]) -> None:
        first = trouble[0]
        super().__init__(first.subject, first.action, first.cause, first.next_step)
        self.trouble = tuple(trouble)
        self.mended = tuple(mended)

    def __str__(self) -> str:
        return "\n".join(str(e) for e in self.trouble)


class Breaker:
    """Breaks one lab.  Needs no lock: notes are atomic, and what ends a fault may run twice."""

    def __init__(self, lab: Lab, upgrades: Upgrades | None = None) -> None:
        """``upgrades``: who upgrades the lab under a scenario's traffic; by hand that is no fault."""
        self.lab = lab
        self._upgrades = upgrades
        self._log = get("faults")

    @cached_property
    def machines(self) -> dict[str, Machine]:
        """What planning has to know of the nodes."""
        inventory = self.lab.inventory
        return {
            n.name: Machine(n.name, inventory.mesh_address(n.name), n.locality, n.memory, n.cluster)
            for n in inventory.nodes
        }

    def actions(self, fault: Fault, places: Mapping[str, str] = MappingProxyType({})) -> tuple[Action, ...]:
        """What it means here, with pods at ``places`` or else at home.  Raises
        :class:`~testbed.plan.faults.NoSuchTarget`."""
        backend = self.lab.inventory.mesh.backend
        actions = actions_of(fault, self.machines, self.lab.topology, backend, places)
        if reason := doubled(actions):
            raise NoSuchTarget(reason)
        return actions

    def unable(self, fault: Fault) -> str:
        """Why this fault can't be made in this lab or on this host; empty when it can.  Touches nothing."""
        try:
            actions = self.actions(fault)
        except NoSuchTarget as e:
            return str(e)
        if fault.kind is FaultKind.UPGRADE:
            return self._nothing_newer()
        if any(isinstance(a, DiskErrors) for a in actions) and (hypervisor := self.lab.hypervisor_if_up()):
            return no_disk_errors(hypervisor.versions().get("qemu", ""))
        return no_bridge_filter() if any(isinstance(a, Silence) for a in actions) else ""

    def _nothing_newer(self) -> str:
        if self._upgrades is None:
            return "an upgrade is made by testbed up, and under traffic by a scenario"
        return "" if self._upgrades.pending() else "the lab runs the releases that its inventory names"

    def standing(self) -> tuple[Standing, ...]:
        """The faults that there are, oldest first."""
        hypervisor = self.lab.hypervisor_if_up()
        return read_standing(DomainBreaker(hypervisor)) if hypervisor else ()

    @contextmanager
    def breaking(self, fault: Fault, begun: Callable[[Made], None] = lambda _: None) -> Iterator[Made]:
        """The fault holds inside the context, and is undone after it, whatever happens in between.

        ``begun`` is told of it before anything is broken.
        """
        made, grips = self._make(fault, owned=True, begun=begun)
        try:
            self._prove(made, grips)
            yield made
        finally:
            self._undo(made, grips)

    def make(self, fault: Fault) -> Made:
        """Make it and leave it, until :meth:`clear`."""
        if fault.kind is FaultKind.UPGRADE:
            raise bad_input("fault", "an upgrade is no fault", "testbed up makes it; testbed verify, under traffic")
        if fault.kind is FaultKind.LINK_FLAP:
            raise bad_input("fault", "a link that flaps needs somebody who does it", "say how long: --for 30s")
        made, grips = self._make(fault, owned=False)
        try:
            self._prove(made, grips)
        except BaseException:
            self._undo(made, grips)
            raise
        if fault.kind.momentary:
            self._undo(made, grips)
        return made

    def clear(self, wanted: Callable[[Standing], bool] = lambda _: True) -> tuple[Made, ...]:
        """Undo what stands, newest first.  All are tried; raises :class:`NotMended` when one could not be."""
        done: list[Made] = []
        trouble: list[TestbedError] = []
        for standing in reversed([s for s in self.standing() if wanted(s)]):
            made = Made(standing.fault, standing.id, standing.nodes)
            try:
                self._undo(made, self._grips(self.actions(standing.fault, standing.places), standing.id))
                done.append(made)
            except NoSuchTarget as e:
                trouble.append(LabError(standing.id, "undo it", str(e), "run: testbed down"))
            except TestbedError as e:
                trouble.append(e)
        try:
            self.settle(done)
        except TestbedError as e:
            trouble.append(e)
        if trouble:
            raise NotMended(trouble, done)
        return tuple(done)

    def clear_strays(self) -> tuple[str, ...]:
        """Remove filters of which no machine carries a note, such as one made anew; their faults' ids."""
        if self.lab.hypervisor_if_up() is None:
            return ()
        ids = network.faults_with_tables(self.lab)  # before the notes: a fault is noted first and forgotten last
        strays = sorted(ids - {s.id for s in self.standing()})
        for fault in strays:
            network.restore(self.lab, fault)
        return tuple(strays)

    def settle(self, made: Iterable[Made]) -> None:
        """Take away what mended faults have left on machines that they did not hit, and send home pods that left
        those; asked for once nothing is measured any more, because living with it is the mesh's own work."""
        made = tuple(made)
        booted = [m for m in made if m.fault.kind.forgets or m.fault.kind is FaultKind.RESTART]
        close_half_open(self.lab, {node for m in booted for node in m.nodes})
        if made and self.lab.has_cluster:
            sent = bring_home(self.lab, {node for m in made for node in m.nodes})
            self._log.info("pods at home", sent=sent)

    def recover(self) -> tuple[Made, ...]:
        """Undo what commands left behind that were killed."""
        return self.clear(lambda standing: standing.orphaned)

    def _make(
        self, fault: Fault, *, owned: bool, begun: Callable[[Made], None] = lambda _: None
    ) -> tuple[Made, dict[str, list[Grip]]]:
        try:
            places = self._places(fault)
            actions = self.actions(fault, places)
        except NothingToBreak as e:
            raise NotApplicable(fault.kind.value, "make it", f"not applicable here: {e}") from None
        except NoSuchTarget as e:
            raise bad_input("fault", str(e), "testbed status shows what there is") from None
        breaker = DomainBreaker(self.lab.hypervisor())
        standing = new_standing(fault, owned=owned, places=places)
        nodes = tuple(dict.fromkeys(a.node for a in actions))
        made = Made(fault, standing.id, nodes)
        grips = self._grips(actions, standing.id)
        try:
            for node in nodes:
                breaker.note(node, standing.id, standing.encode())
            # looked at after noting: of two commands at once at least one sees the other
            self._refuse_overlap(actions, standing)
        except BaseException:
            self._forget(made)
            raise
        self._log.info("fault", id=standing.id, what=fault.title)
        made.began = time.monotonic()
        begun(made)
        try:
            self._each(grips, lambda grip: grip.begin())
        except BaseException:
            self._undo(made, grips)
            raise
        made.bit = time.monotonic()
        return made, grips

    def _places(self, fault: Fault) -> dict[str, str]:
        """Where pods are, when that matters and somebody says; else they count as being at home."""
        if not (fault.kind.of_workload and self.lab.has_cluster):
            return {}
        try:
            return {pod.workload: pod.node for pod in bound_pods(self.lab)}
        except TestbedError as e:
            self._log.warning("pods taken to be at home", error=str(e))
            return {}

    def _refuse_overlap(self, actions: Sequence[Action], ours: Standing) -> None:
        for other in self.standing():
            if other.id == ours.id:
                continue
            theirs = self.actions(other.fault, other.places)
            if reason := conflict(actions, theirs) or _mute(actions, theirs):
                raise StillBroken(ours.fault, other.fault, reason)

    def _prove(self, made: Made, grips: dict[str, list[Grip]]) -> None:
        proofs: list[tuple[str, Proof]] = []
        lock = threading.Lock()

        def prove(node: str) -> None:
            for grip in grips[node]:
                found = grip.prove()
                with lock:
                    proofs.append((node, found))

        self._parallel(grips, prove)
        made.proof = together(sorted(proofs, key=lambda p: p[0]))

    def _undo(self, made: Made, grips: dict[str, list[Grip]]) -> None:
        """Mend everything, wait until it is well, and forget those that are."""
        made.ending = time.monotonic()
        self._end(grips)
        made.ended = time.monotonic()
        self._each(grips, lambda grip: grip.await_well())
        made.well = time.monotonic()
        self._forget(made)
        self._log.info("mended", id=made.id, what=made.fault.title, proof=made.proof.words)

    def _forget(self, made: Made) -> None:
        breaker = DomainBreaker(self.lab.hypervisor())
        known = breaker.hypervisor.machines()
        for node in made.nodes:
            if node in known:
                breaker.note(node, made.id, None)

    def _grips(self, actions: Iterable[Action], fault: str) -> dict[str, list[Grip]]:
        grips: dict[str, list[Grip]] = {}
        for action in actions:
            grips.setdefault(action.node, []).append(grip_of(action, self.lab, fault, self._upgrades))
        return grips

    def _each(self, grips: dict[str, list[Grip]], work: Callable[[Grip], None]) -> None:
        def on(node: str) -> None:
            for grip in grips[node]:
                work(grip)

        self._parallel(grips, on)

    def _end(self, grips: dict[str, list[Grip]]) -> None:
        """One that can't be ended keeps no other from it."""

        def end(node: str) -> None:
            with ExitStack() as stack:  # which goes on after an error, and raises it then
                for grip in reversed(grips[node]):
                    stack.callback(grip.end)

        self._parallel(grips, end)

    def _parallel(self, nodes: Iterable[str], work: Callable[[str], None]) -> None:
        """On all nodes at once; the first error once all have been tried."""
        names = list(nodes)
        if len(names) == 1:
            work(names[0])
            return
        with ThreadPoolExecutor(len(names) or 1) as pool:
            futures = [pool.submit(work, name) for name in names]
        for future in futures:
            future.result()


def _mute(new: Iterable[Action], standing: Iterable[Action]) -> str:
    """Why a partition could not prove itself: the machine that would try to get through is out altogether."""
    out = {part for action in standing for part in parts_of(action)}
    mute = next((a.node for a in new if isinstance(a, Silence) and (a.node, "machine") in out), "")
    return f"the machine of {mute} is broken already, and nothing could be sent from it" if mute else ""
