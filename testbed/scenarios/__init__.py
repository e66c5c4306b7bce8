"""Scenarios: given, when, expect; and the verdict."""

from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.loading import ScenarioFile, find, read_file
from testbed.scenarios.running import run_scenario

__all__ = ["LabUnderTest", "ScenarioFile", "find", "read_file", "run_scenario"]
