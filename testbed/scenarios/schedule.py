"""Faults at their times: each in a thread of its own, undone whatever happens, and kept however it went."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from testbed.errors import LabError, TestbedError
from testbed.faults.breaking import Made, StillBroken
from testbed.faults.proof import Proof
from testbed.model.fault import Fault
from testbed.scenarios.following import Follower
from testbed.scenarios.lab import Breaks
from testbed.waiting import Cancelled, NotYet, wait_until

PUT_OFF_LIMIT = 120.0
"""Seconds that a fault waits for a machine that by the schedule is well again, and still boots."""


class Schedule:
    """Makes each fault at its time, in a thread of its own, and undoes it whatever happens."""

    def __init__(self, faults: list[Fault], breaker: Breaks, follower: Follower | None = None) -> None:
        self._breaker = breaker
        self._faults = faults
        self._follower = follower or Follower()
        self._over = threading.Event()
        self._ended: set[int] = set()
        self._threads: list[threading.Thread] = []
        self.made: list[Made] = []
        """All that were begun, those that then went wrong among them: what they broke counts."""
        self.put_off: list[Fault] = []
        """Those that were never begun, because the traffic ended first."""
        self.trouble: list[TestbedError] = []

    def start(self, began: float) -> None:
        """``began``: when the traffic began, on the host's monotonic clock."""
        self._follower.begin(len(self._faults))
        for number, fault in enumerate(self._faults):
            thread = threading.Thread(target=self._one, args=(number, fault, began), name=fault.title)
            self._threads.append(thread)
            thread.start()

    def _one(self, number: int, fault: Fault, began: float) -> None:
        mine: list[Made] = []
        try:
            if self._over.wait(max(0.0, began + fault.at - time.monotonic())):
                raise Cancelled(fault.title)
            if fault.alone:
                self._await_others(number, fault)
            with self._breaking(fault, mine) as made:
                self._over.wait(max(0.0, made.bit + (fault.duration or 0) - time.monotonic()))
            self._follower.fault(fault, "mended" if made.proof.held else "unproved", made.proof.words)
        except Cancelled:  # the traffic ended first
            self.put_off.append(fault)
            self._follower.fault(fault, "not made", "the traffic ended first")
            if fault.alone:
                cause = "the traffic ended before the faults before it were over"
                self.trouble.append(LabError(fault.title, "make it", cause, "send for longer: `for`"))
        except TestbedError as e:
            self._spoiled(fault, mine, e)
        except Exception as e:  # noqa: BLE001 - what it broke must be known, whatever went wrong with it
            self._spoiled(fault, mine, LabError(fault.title, "make it", f"{type(e).__name__}: {e}"))
        finally:
            self._ended.add(number)

    def _spoiled(self, fault: Fault, mine: list[Made], error: TestbedError) -> None:
        for made in mine:
            if not made.proof.held:
                made.proof = Proof(False, str(error))
        self.trouble.append(error)
        self._follower.fault(fault, "went wrong", str(error))

    def _await_others(self, number: int, fault: Fault) -> None:
        def over() -> None:
            if left := [f.title for n, f in enumerate(self._faults[:number]) if n not in self._ended]:
                raise NotYet(f"{left[0]} is not over")

        name = f"the faults before {fault.title} are over"
        wait_until(name, over, limit=PUT_OFF_LIMIT * number, interval=0.5, cancel=self._over)

    @contextmanager
    def _breaking(self, fault: Fault, mine: list[Made]) -> Iterator[Made]:
        """Put off for a fault that should be over and is not; one that should hold at the same time is an error."""

        def begun(made: Made) -> None:
            mine.append(made)
            self.made.append(made)
            self._follower.fault(fault, "begun", "")

        with ExitStack() as stack:

            def begin() -> Made:
                try:
                    return stack.enter_context(self._breaker.breaking(fault, begun))
                except StillBroken as e:
                    if _overlap(fault, e.other):
                        raise
                    raise NotYet(f"{e.other.title} is not over") from None

            name = f"{', '.join(fault.target)} is well again, for {fault.title}"
            yield wait_until(name, begin, limit=PUT_OFF_LIMIT, interval=1, cancel=self._over)

    @property
    def over(self) -> bool:
        """Whether every fault has been undone, or was never made."""
        return len(self._ended) == len(self._faults)

    def end(self) -> None:
        """Undo what still stands, and wait until all is well."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def _overlap(one: Fault, other: Fault) -> bool:
    """Whether both hold at once by their own times."""
    return one.at < other.at + (other.duration or 0) and other.at <= one.at + (one.duration or 0)
