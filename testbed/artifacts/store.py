"""Artifacts in the cache: pulled once, checked against the release's sums and then against the lock."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from testbed.artifacts.catalogue import Artifact
from testbed.artifacts.lockfile import LockFile, Pin
from testbed.artifacts.sources import Source
from testbed.artifacts.sums import pin_of, sum_for
from testbed.errors import HostNotReady, LabError
from testbed.host.download import NotFound

OnProgress = Callable[[Artifact, int, int], None]
"""Called with the artifact, the bytes that are there, and the whole (0: unknown)."""


def _silent(artifact: Artifact, have: int, whole: int) -> None:
    pass


class State(StrEnum):
    """What is known of an artifact in the cache."""

    OK = "ok"
    MISSING = "missing"
    UNLOCKED = "not locked"
    CHANGED = "changed"


@dataclass(frozen=True)
class Pulled:
    """An artifact that is there now."""

    artifact: Artifact
    pin: Pin
    source: str
    """Where it came from; ``cache`` when it was there."""


@dataclass(frozen=True)
class Store:
    """The folder that artifacts are kept in, and the lock that says what they must be."""

    folder: Path
    lock: LockFile

    def path(self, artifact: Artifact) -> Path:
        """Where it lies, or will."""
        return self.folder / artifact.path

    def require(self, wanted: Iterable[Artifact], next_step: str) -> None:
        """Raise :class:`HostNotReady` naming the first that is missing.  Looks at sizes only: quick."""
        pins = self.lock.pins()
        missing = []
        for artifact in wanted:
            path, pin = self.path(artifact), pins.get(artifact.path)
            if not path.is_file() or (pin is not None and path.stat().st_size != pin.size):
                missing.append(artifact.path)
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise HostNotReady("artifacts", "find them in the cache", f"{missing[0]} is missing{more}", next_step)

    def states(self, wanted: Iterable[Artifact]) -> list[tuple[Artifact, State]]:
        """Each artifact's state; reads every file that is there."""
        pins = self.lock.pins()
        return [(artifact, self._state(artifact, pins.get(artifact.path))) for artifact in wanted]

    def _state(self, artifact: Artifact, pin: Pin | None) -> State:
        path = self.path(artifact)
        if not path.is_file():
            return State.MISSING
        if pin is None:
            return State.UNLOCKED
        return State.OK if pin_of(path) == pin else State.CHANGED

    def pull(
        self, wanted: Sequence[Artifact], sources: Sequence[Source], on_progress: OnProgress = _silent
    ) -> list[Pulled]:
        """Bring what is missing, check all of it, and lock what was not.

        The first source that has an artifact gives it.  Raises :class:`LabError` for content that is not what
        the release's sums, or the lock, say; nothing of it is kept then.
        """
        return [self._pull(artifact, sources, on_progress) for artifact in wanted]

    def _pull(self, artifact: Artifact, sources: Sequence[Source], on_progress: OnProgress) -> Pulled:
        pin = self.lock.pins().get(artifact.path)
        path = self.path(artifact)
        if path.is_file() and pin is not None:
            if pin_of(path) == pin:
                return Pulled(artifact, pin, "cache")
            path.unlink()  # a broken disk, or somebody's hand: fetched again, and checked again
        failed: list[LabError] = []
        for source in sources:
            try:
                return self._from(source, artifact, pin, on_progress)
            except NotFound as e:
                failed.append(e)
            except LabError as e:
                if not failed:
                    raise
                # a mirror was asked first: that it lacks the file is the more useful half
                cause = f"{failed[0].subject} is not there; {e.subject}: {e.cause}"
                raise LabError(artifact.path, "pull", cause, e.next_step) from None
        raise LabError(
            artifact.path, "pull", "; ".join(f"{e.subject}: {e.cause}" for e in failed), failed[-1].next_step
        )

    def _from(self, source: Source, artifact: Artifact, pin: Pin | None, on_progress: OnProgress) -> Pulled:
        by_lock = pin is not None
        wanted = pin.sha256 if pin is not None else self._stated(source, artifact)
        path = self.path(artifact)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        source.fetch(artifact, part, lambda have, whole: on_progress(artifact, have, whole))
        found = pin_of(part)
        if wanted and found.sha256 != wanted:
            part.unlink()
            says = f"{self.lock.path} pins" if by_lock else f"the sums of {source.name} say"
            advice = (
                "if the release was meant to change, delete its line in the lock"
                if by_lock
                else "run the command again; if it stays so, the file there is not the project's"
            )
            cause = f"its SHA-256 is {found.sha256[:16]}…, {says} {wanted[:16]}…"
            raise LabError(artifact.path, "check", cause, advice)
        part.chmod(0o755 if artifact.name == artifact.product else 0o644)
        part.rename(path)
        self.lock.add({artifact.path: found})
        return Pulled(artifact, found, source.name)

    def _stated(self, source: Source, artifact: Artifact) -> str:
        text = source.sums(artifact)
        return sum_for(artifact.name, text, f"{source.name}: {artifact.sums}") if text else ""

    def mirror(self, wanted: Sequence[Artifact], folder: Path) -> None:
        """Write ``wanted``, with their sums and the lock, to a folder that serves a lab without a network.

        All of them must have been pulled.  Raises :class:`LabError` for one that is not what the lock says.
        """
        for artifact, state in self.states(wanted):
            if state is not State.OK:
                raise LabError(artifact.path, "mirror", f"it is {state}", "run: testbed artifacts pull")
        pins = self.lock.pins()
        sums: dict[str, str] = {}
        for artifact in wanted:
            target = folder / artifact.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (target.is_file() and pin_of(target) == pins[artifact.path]):
                _copy(self.path(artifact), target)
            sums[artifact.sums_path] = sums.get(artifact.sums_path, "") + (
                f"{pins[artifact.path].sha256}  {artifact.name}\n"
            )
        for path, text in sums.items():
            (folder / path).write_text(text)
        LockFile(folder / self.lock.path.name).add({a.path: pins[a.path] for a in wanted})


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.copy(source, part)
    part.rename(target)
