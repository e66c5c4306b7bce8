"""What one compilation leaves for the next, so that only what depends on a change is done again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    parts: tuple[Hashable, ...]
    """Keys of the results that this one was made from."""


class CompileCache:
    """Results by what they were computed from.

    A key names every input (digests of resources, mostly), so a result can't be stale.  When a compilation ends,
    what it had no use for is dropped; a result that was used keeps those that it was made from, which the next
    change will want.
    """

    def __init__(self) -> None:
        self._previous: dict[Hashable, _Entry] = {}
        self._current: dict[Hashable, _Entry] = {}
        self._making: list[list[Hashable]] = []
        self._objects: dict[str, tuple[Any, Any]] = {}

    def get(self, key: Hashable, build: Callable[[], Value]) -> Value:
        """The result for ``key``, computed by ``build`` unless it is known."""
        if self._making:
            self._making[-1].append(key)
        entry = self._current.get(key)
        if entry is None:
            if key in self._previous:
                self._keep(key)
            else:
                self._making.append([])
                try:
                    value = build()
                finally:
                    parts = self._making.pop()
                self._current[key] = _Entry(value, tuple(parts))
            entry = self._current[key]
        known: Value = entry.value
        return known

    def _keep(self, key: Hashable) -> None:
        waiting = [key]
        while waiting:
            found = waiting.pop()
            if found not in self._current and found in self._previous:
                entry = self._previous[found]
                self._current[found] = entry
                waiting.extend(entry.parts)

    def of_object(self, value: Any, build: Callable[[], Value]) -> Value:
        """The result for an immutable object that has no digest: known while the same object comes again."""
        kind = type(value).__name__
        if kind in self._objects and self._objects[kind][0] is value:
            known: Value = self._objects[kind][1]
            return known
        result = build()
        self._objects[kind] = value, result
        return result

    def sweep(self) -> None:
        """End a compilation."""
        self._previous, self._current = self._current, {}

    def __len__(self) -> int:
        return len(self._previous) + len(self._current)
