"""Scenarios: given, when, expect; and the verdict."""

from testbed.scenarios.calls import check
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.loading import ScenarioFile, find, read_file
from testbed.scenarios.running import run_scenario

__all__ = ["LabUnderTest", "ScenarioFile", "check", "find", "read_file", "run_scenario"]
