"""A machine whose boot has come to a stand, by its own words: it is given another one.

Seen of an emulated machine (QEMU 7.2, TCG) in one of some seventy boots: its disk had done all that was asked of
it, and the interrupt that would have told the guest so never came.  Nothing but the power helps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from testbed import log
from testbed.hypervisor.breaking import DomainBreaker
from testbed.lab.lab import Lab

_log = log.get("faults")

_STANDS = re.compile(r"INFO: task \S+ blocked for more than \d+ seconds|Kernel panic - not syncing")
"""What Linux says of a task that has waited for two minutes (kernel/hung_task.c), and when it gives up."""


def stands(console: str) -> str:
    """The first line in which a kernel says that it does not go on; empty when there is none."""
    return next((line.strip() for line in console.splitlines() if _STANDS.search(line)), "")


@dataclass
class Revival:
    """Looks after a machine that is waited for and does not answer; gives it a new boot, once."""

    lab: Lab
    node: str
    words: str = ""
    """What was done, when anything was."""
    seen: int = field(init=False)
    """Characters on its console before."""

    def __post_init__(self) -> None:
        self.seen = len(self._console())

    def look(self) -> None:
        """To be asked whenever it has not answered."""
        if self.words or not (line := stands(self._console()[self.seen :])):
            return
        self.words = f"its boot came to a stand and was begun anew: {line}"
        _log.warning("power given anew", node=self.node, console=line)
        self.lab.connection(self.node).close()
        DomainBreaker(self.lab.hypervisor()).cut_power(self.node)
        self.lab.hypervisor().start(self.node)

    def _console(self) -> str:
        file = self.lab.directories.consoles / f"{self.node}.log"
        return file.read_text(errors="replace") if file.exists() else ""
