"""Steps as they are collected into a plan."""

from __future__ import annotations

from dataclasses import replace

from testbed.plan.steps import Action, Plan, Stage, Step


class Steps:
    """Collects steps; a step is only asked to wait for steps that are in the plan."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    def add(
        self,
        name: str,
        action: Action,
        stage: Stage,
        needs: tuple[str, ...],
        does: str,
        undone_by: str,
        done_when: str,
    ) -> None:
        """Add a step, as its parts."""
        self.take(Step(name, action, does, undone_by, done_when, stage, frozenset(needs)))

    def take(self, step: Step) -> None:
        """Add a step; of what it needs, only what is there stays."""
        present = frozenset(n for n in step.needs if n in self._steps)
        self._steps[step.name] = replace(step, needs=present)

    def named(self, *prefixes: str) -> tuple[str, ...]:
        """The steps so far whose name begins with one of ``prefixes``."""
        return tuple(n for n in self._steps if n.startswith(prefixes))

    def plan(self) -> Plan:
        """All of them, in the order in which they came."""
        return Plan(tuple(self._steps.values()))
