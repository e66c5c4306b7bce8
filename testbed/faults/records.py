"""Faults that stand, as libvirt's metadata tells: who made each, and whether he still lives to undo it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from testbed.errors import LabError
from testbed.hypervisor.breaking import DomainBreaker
from testbed.model.fault import Fault


@dataclass(frozen=True)
class Owner:
    """The command that will undo a fault: a process, and when it began (clock ticks since boot), as pids recur."""

    pid: int
    began: int

    @classmethod
    def this(cls) -> Owner:
        """This process."""
        return cls(os.getpid(), _began(os.getpid()))

    @property
    def lives(self) -> bool:
        """Whether that very process still runs on this host."""
        return _began(self.pid) == self.began != 0


def _began(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


@dataclass(frozen=True)
class Standing:
    """A fault that has been made, or was about to be.  ``since`` is in seconds since the epoch."""

    id: str
    fault: Fault
    owner: Owner | None
    """None: it stands until it is cleared."""
    since: float
    nodes: tuple[str, ...] = ()
    """The machines that carry a note of it."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Workload -> the node that its pod was on: it is mended where it was broken, wherever the pod is by then."""

    @property
    def orphaned(self) -> bool:
        """Whether whoever should have undone it is gone."""
        return self.owner is not None and not self.owner.lives

    def encode(self) -> str:
        """The note's text."""
        plain = self.fault.model_dump(mode="json", by_alias=True, exclude_none=True)
        owner = [self.owner.pid, self.owner.began] if self.owner else None
        return json.dumps({"fault": plain, "owner": owner, "since": self.since, "places": dict(self.places)})

    @classmethod
    def decode(cls, id_: str, text: str, nodes: tuple[str, ...]) -> Standing:
        """From a note.  Raises LabError for one that an incompatible version wrote."""
        try:
            said = json.loads(text)
            owner = Owner(*said["owner"]) if said["owner"] else None
            fault, places = Fault.model_validate(said["fault"]), said.get("places", {})
            return cls(id_, fault, owner, said["since"], nodes, places)
        except (ValueError, KeyError, TypeError) as e:
            raise LabError(nodes[0], f"read the note of fault {id_}", str(e), "run: testbed down") from None


def new_standing(fault: Fault, *, owned: bool, places: Mapping[str, str] = MappingProxyType({})) -> Standing:
    """A fault about to be made by this process, which undoes it if it is ``owned``; ``places``: of pods."""
    owner = Owner.this() if owned else None
    return Standing(os.urandom(3).hex(), fault, owner, time.time(), places=places)


def read_standing(breaker: DomainBreaker) -> tuple[Standing, ...]:
    """All that stand, oldest first."""
    texts: dict[str, str] = {}
    nodes: dict[str, list[str]] = {}
    for node, notes in breaker.notes().items():
        for id_, text in notes.items():
            texts[id_] = text
            nodes.setdefault(id_, []).append(node)
    found = [Standing.decode(id_, text, tuple(nodes[id_])) for id_, text in texts.items()]
    return tuple(sorted(found, key=lambda s: s.since))
