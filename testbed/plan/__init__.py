"""(wanted lab, observed lab) -> ordered steps.  Pure; the executor is left no choice."""

from testbed.plan.lab import ObservedLab, ObservedMachine, WantedCluster, WantedLab, WantedMachine
from testbed.plan.planner import plan_down, plan_restore, plan_save, plan_scale, plan_up
from testbed.plan.steps import Plan, Step

__all__ = [
    "ObservedLab",
    "ObservedMachine",
    "Plan",
    "Step",
    "WantedCluster",
    "WantedLab",
    "WantedMachine",
    "plan_down",
    "plan_restore",
    "plan_save",
    "plan_scale",
    "plan_up",
]
