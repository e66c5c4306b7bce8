"""What one compilation leaves for the next, so that only what depends on a change is done again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class CompileCache:
    """Results by what they were computed from.

    A key names every input (digests of resources, mostly), so a result can't be stale.  What a compilation did
    not ask for is dropped when it ends: the cache holds what the last one needed, and no more.
    """

    def __init__(self) -> None:
        self._previous: dict[Hashable, Any] = {}
        self._current: dict[Hashable, Any] = {}
        self._objects: dict[str, tuple[Any, Any]] = {}

    def get(self, key: Hashable, build: Callable[[], Value]) -> Value:
        """The result for ``key``, computed by ``build`` unless it is known."""
        if key in self._current:
            known: Value = self._current[key]
            return known
        value = self._previous[key] if key in self._previous else build()
        self._current[key] = value
        return value

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
