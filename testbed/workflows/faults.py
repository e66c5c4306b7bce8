"""`fault`: break a machine by hand, say what is broken, mend it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from testbed.errors import bad_input
from testbed.faults.breaking import Breaker, Made, NotMended
from testbed.faults.records import Standing
from testbed.lab.lab import Lab, NotUp
from testbed.model.fault import Fault
from testbed.workflows.nodes import require_up


def fault_of(values: dict[str, Any]) -> Fault:
    """A fault from options of the command line.  Raises BadInput."""
    try:
        return Fault.model_validate({k: v for k, v in values.items() if v not in (None, (), [], False)})
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise bad_input("fault", f"{field}: {message}" if field else message, "testbed fault --help") from None


def make(lab: Lab, fault: Fault, *, told: Callable[[Made], None]) -> Made:
    """Make a fault.  With a duration it is undone at its end; else it stays.  ``told``: once it holds."""
    require_up(lab)
    breaker = Breaker(lab)
    if fault.duration is None:
        made = breaker.make(fault)
        if fault.kind.momentary:
            breaker.settle([made])
        told(made)
        return made
    with breaker.breaking(fault) as made:
        told(made)
        threading.Event().wait(fault.duration)  # its length, not a wait for something
    breaker.settle([made])
    return made


def standing(lab: Lab) -> tuple[Standing, ...]:
    """The faults that there are."""
    require_up(lab)
    return Breaker(lab).standing()


@dataclass(frozen=True)
class Cleared:
    """What clearing came to."""

    mended: tuple[Made, ...]
    strays: tuple[str, ...]
    """Ids of filters that no machine had a note of, and that were removed."""
    trouble: NotMended | None
    """What could not be undone."""


def clear(lab: Lab) -> Cleared:
    """Undo all of them, whatever becomes of each, and say what was done."""
    if not lab.hypervisor().machines():
        raise NotUp(lab.id, "find its machines")
    breaker = Breaker(lab)
    trouble: NotMended | None = None
    try:
        mended = breaker.clear()
    except NotMended as e:
        mended, trouble = e.mended, e
    return Cleared(mended, breaker.clear_strays(), trouble)
