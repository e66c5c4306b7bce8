"""Where the time of a plan went: per step, and per stage by the wall clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from testbed.lab.executor import StepEvent, StepState, Watcher
from testbed.plan.steps import Stage


@dataclass
class Timeline:
    """A watcher that keeps when each stage began and ended, and passes events on."""

    next: Watcher
    spans: dict[Stage, tuple[float, float]] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    """Step -> seconds from the timeline's start to the step's end."""
    begin: float = field(default_factory=time.monotonic)

    def __call__(self, event: StepEvent) -> None:
        """Take note of ``event``."""
        self.mark(event.step.stage)
        if event.state is StepState.DONE:
            self.ended[event.step.name] = round(time.monotonic() - self.begin, 2)
        if event.state is not StepState.WAITING:
            self.next(event)

    def mark(self, stage: Stage) -> None:
        """Something of ``stage`` begins or ends now."""
        now = time.monotonic()
        begin, _ = self.spans.get(stage, (now, now))
        self.spans[stage] = (begin, now)

    def stages(self) -> dict[str, float]:
        """Stage -> seconds from its first step's start to its last one's end; stages may overlap."""
        return {stage.value: round(end - begin, 2) for stage, (begin, end) in self.spans.items()}
