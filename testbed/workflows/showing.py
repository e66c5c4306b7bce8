"""How workflows show a plan's progress, without knowing to whom."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from testbed.lab.executor import Watcher
from testbed.plan import Plan

Show = Callable[[Plan], AbstractContextManager[Watcher]]
"""Shows a plan's progress for the length of a block."""
