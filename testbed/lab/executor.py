"""Runs a plan: every step as soon as those that it needs have ended, several at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from graphlib import TopologicalSorter
from queue import Empty, SimpleQueue
from typing import Protocol

from testbed import log
from testbed.plan.steps import Action, Plan, Step
from testbed.waiting import Cancelled, telling

_log = log.get("lab")


class StepState(StrEnum):
    """Where a step is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class StepEvent:
    """A step has changed its state, or, with ``seen``, a running one waits for something and sees something else.

    ``seconds`` is how long it ran, once it has ended.
    """

    step: Step
    state: StepState
    seconds: float = 0.0
    seen: str = ""
    """What is waited for, and what was seen instead: ``NAME: WHAT``."""


class Watcher(Protocol):
    """Is told of each event, from the thread that executes the plan."""

    def __call__(self, event: StepEvent) -> None:
        """Take note of ``event``; must not raise."""
        ...


def execute(
    plan: Plan,
    perform: Callable[[Action, threading.Event], None],
    watch: Watcher,
    *,
    workers: int = 16,
) -> dict[str, float]:
    """Run all steps; returns each one's seconds.

    The first error stops new steps, sets the event that running ones watch, waits for these, and is raised.
    KeyboardInterrupt does the same.
    """
    sorter = TopologicalSorter({s.name: s.needs for s in plan})
    sorter.prepare()
    steps = {s.name: s for s in plan}
    cancel = threading.Event()
    seconds: dict[str, float] = {}
    running: dict[Future[float], Step] = {}
    failure: BaseException | None = None
    seen: SimpleQueue[tuple[Step, str, str]] = SimpleQueue()
    with ThreadPoolExecutor(workers, thread_name_prefix="step") as pool:
        try:
            while sorter.is_active():
                for name in sorter.get_ready():
                    step = steps[name]
                    _tell(watch, StepEvent(step, StepState.RUNNING))
                    told = partial(_put, seen, step)
                    running[pool.submit(_timed, perform, step.action, cancel, told)] = step
                # a short limit, because a wait without one can't be interrupted by a signal on every platform
                ended, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in ended:
                    seconds[running[future].name] = future.result()
                    step = running.pop(future)
                    _tell(watch, StepEvent(step, StepState.DONE, seconds[step.name]))
                    sorter.done(step.name)
                _tell_seen(watch, seen, running.values())
        except BaseException as e:  # noqa: BLE001  (raised again below, after the running steps ended)
            failure = e
            cancel.set()
    for future, step in running.items():
        error = future.exception()
        state = StepState.SKIPPED if isinstance(error, Cancelled) else StepState.FAILED if error else StepState.DONE
        _tell(watch, StepEvent(step, state))
    if failure is not None:
        _log.error("plan failed", error=str(failure) or type(failure).__name__)
        raise failure
    return seconds


def _timed(
    perform: Callable[[Action, threading.Event], None],
    action: Action,
    cancel: threading.Event,
    told: Callable[[str, str], None],
) -> float:
    start = time.monotonic()
    with telling(told):
        perform(action, cancel)
    return time.monotonic() - start


def _put(seen: SimpleQueue[tuple[Step, str, str]], step: Step, name: str, what: str) -> None:
    seen.put((step, name, what))


def _tell_seen(watch: Watcher, seen: SimpleQueue[tuple[Step, str, str]], running: Iterable[Step]) -> None:
    """The last that each step that still runs has seen, once a second at most."""
    last: dict[str, StepEvent] = {}
    try:
        while True:
            step, name, what = seen.get_nowait()
            last[step.name] = StepEvent(step, StepState.RUNNING, seen=f"{name}: {what}")
    except Empty:
        pass
    names = {step.name for step in running}
    for name, event in last.items():
        if name in names:
            _log.info("waits", step=name, seen=event.seen)
            watch(event)


def _tell(watch: Watcher, event: StepEvent) -> None:
    _log.info("step", step=event.step.name, state=event.state.value, seconds=round(event.seconds, 3))
    watch(event)
