"""How long machines have waited for a processor of this host, as its kernel counts it for each of their threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed.host.processes import PROC

Waited = Mapping[int, float]
"""Thread -> seconds that it was ready to run and did not."""


@dataclass
class MachineThreads:
    """QEMU's threads of some domains, by node.  ``domains``: node -> domain.

    A machine that is started again has another process: it is looked for when the one that was known is gone.
    """

    domains: Mapping[str, str]
    proc: Path = PROC
    _processes: dict[str, int] = field(default_factory=dict)

    def look(self) -> dict[str, Waited]:
        """Node -> what each of its threads has waited so far; without those that are off."""
        found: dict[str, Waited] = {node: waited for node in self.domains if (waited := self._waited(node))}
        if len(found) < len(self.domains):
            self._find()
            found |= {n: waited for n in self.domains if n not in found and (waited := self._waited(n))}
        return found

    def _waited(self, node: str) -> dict[int, float]:
        if node not in self._processes:
            return {}
        found: dict[int, float] = {}
        try:
            for task in (self.proc / str(self._processes[node]) / "task").iterdir():
                # nanoseconds on a processor, and ready without one (Linux: Documentation/scheduler/sched-stats)
                found[int(task.name)] = int((task / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            del self._processes[node]
            return {}
        return found

    def _find(self) -> None:
        wanted = {f"guest={domain}": node for node, domain in self.domains.items()}
        for folder in self.proc.iterdir():
            if not folder.name.isdigit():
                continue
            try:
                arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            for argument in arguments[1:4]:  # libvirt's first are: -name guest=NAME,debug-threads=on
                if (node := wanted.get(argument.partition(",")[0])) is not None:
                    self._processes[node] = int(folder.name)
