"""Files that a node must have for a unit to run, and the fewest commands from what it has to that.

Pure: what a node has comes in as :class:`Found`, what to do goes out as :class:`Command`.  The deploy in
``playbooks/deploys/unit.py`` looks, and runs them.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class NodeFile:
    """A file on a node.  ``content`` may be secret: it goes through standard input, never onto a command line."""

    path: str
    content: str = field(repr=False)
    mode: int = 0o644
    restarts: bool = True
    """Whether the unit reads it only when it starts."""

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.content.encode()).hexdigest()


@dataclass(frozen=True)
class UnitFiles:
    """A systemd unit, its own file among ``files``, and links to what lies on the shared disk."""

    unit: str
    files: tuple[NodeFile, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    """Path on the node -> where it leads."""
    absent: tuple[str, ...] = ()
    """Files that an earlier inventory may have left, which the unit would read when it starts."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything that is looked at, in order."""
        return (*(f.path for f in self.files), *sorted(self.links), *self.absent)

    @property
    def digest(self) -> str:
        """A content hash of all of it."""
        parts = [f"{f.path} {f.mode} {f.digest}" for f in self.files] + [f"{p} {t}" for p, t in self.links.items()]
        return hashlib.sha256("\n".join([self.unit, *parts]).encode()).hexdigest()

    def as_data(self) -> dict[str, object]:
        """As a deploy's data."""
        return {
            "unit": self.unit,
            "files": [[f.path, f.content, f.mode, f.restarts] for f in self.files],
            "links": dict(self.links),
            "absent": list(self.absent),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, object]) -> UnitFiles:
        """From a deploy's data."""
        files, links, absent = data["files"], data["links"], data["absent"]
        assert isinstance(files, list) and isinstance(links, dict) and isinstance(absent, list)  # noqa: S101 as_data
        return cls(str(data["unit"]), tuple(NodeFile(*f) for f in files), links, tuple(absent))


@dataclass(frozen=True)
class Found:
    """What a node has: of each path its digest and mode, or where it leads; nothing for what is absent."""

    digests: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    state: str = "inactive"
    """Of the unit, as ``systemctl is-active`` says it."""


@dataclass(frozen=True)
class Command:
    """A shell command and its standard input."""

    text: str
    stdin: str | None = field(default=None, repr=False)


def look(wanted: UnitFiles, root: str = "") -> str:
    """The one command that finds out what a node has; :func:`found` reads what it writes."""
    paths = " ".join(shlex.quote(root + p) for p in wanted.paths)
    each = 'if [ -L "$p" ]; then echo "link $(readlink "$p") $p"; '
    each += 'elif [ -f "$p" ]; then echo "file $(sha256sum <"$p" | cut -c1-64) $(stat -c %a "$p") $p"; fi'
    active = f"echo unit $(systemctl is-active {shlex.quote(wanted.unit)} 2>/dev/null || true)"
    return f"for p in {paths}; do {each}; done; {active}"


def found(lines: Sequence[str], root: str = "") -> Found:
    """What :func:`look` wrote."""
    digests: dict[str, tuple[str, int]] = {}
    links: dict[str, str] = {}
    state = "inactive"
    for line in lines:
        kind, _, rest = line.strip().partition(" ")
        if kind == "file":
            digest, mode, path = rest.split(" ", 2)
            digests[path.removeprefix(root)] = (digest, int(mode, 8))
        elif kind == "link":
            target, path = rest.split(" ", 1)
            links[path.removeprefix(root)] = target
        elif kind == "unit":
            state = rest or state
    return Found(digests, links, state)


def commands(wanted: UnitFiles, has: Found, root: str = "") -> tuple[Command, ...]:
    """From ``has`` to ``wanted``; none when nothing differs and the unit runs.

    The unit is restarted only for what it reads when it starts, and waiting for it is left to the caller, who
    knows what being ready means: ``--no-block`` returns at once, also while a k3s agent waits for its server.
    """
    steps: list[Command] = []
    restart = False
    for file in wanted.files:
        there = has.digests.get(file.path)
        if there == (file.digest, file.mode):
            continue
        steps.append(_write(file, root))
        restart = restart or file.restarts
    for path, target in sorted(wanted.links.items()):
        if has.links.get(path) != target:
            where = shlex.quote(root + path)
            steps.append(Command(f"mkdir -p $(dirname {where}) && ln -sfn {shlex.quote(target)} {where}"))
            restart = True
    for path in wanted.absent:
        if path in has.digests:
            steps.append(Command(f"rm -f {shlex.quote(root + path)}"))
            restart = True
    unit = shlex.quote(wanted.unit)
    if any(
        _is_of_unit(f.path, wanted.unit) and has.digests.get(f.path) != (f.digest, f.mode) for f in wanted.files
    ):
        steps.append(Command(f"systemctl daemon-reload && systemctl enable --quiet {unit}"))
    if has.state not in ("active", "activating"):
        steps.append(Command(f"systemctl start --no-block {unit}"))
    elif restart:
        steps.append(Command(f"systemctl restart --no-block {unit}"))
    return tuple(steps)


def _is_of_unit(path: str, unit: str) -> bool:
    """Whether systemd reads it: the unit's own file, or a drop-in beside it."""
    return path.endswith(f"/{unit}") or f"/{unit}.d/" in path


def _write(file: NodeFile, root: str) -> Command:
    path = shlex.quote(root + file.path)
    # by rename: a machine may die at any time; the mode is there before the content
    steps = [
        f"mkdir -p $(dirname {path})",
        f"install -m {file.mode:o} /dev/null {path}.new",
        f"cat >{path}.new",
        f"mv {path}.new {path}",
    ]
    return Command(" && ".join(steps), file.content)
