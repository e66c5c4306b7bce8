"""From a run's record to what people and programs read: the bundle, JUnit XML, JSON, one HTML page."""

from testbed.report.bundle import write_bundle
from testbed.report.junit import junit_xml
from testbed.report.page import html_page
from testbed.report.plain import record_json
from testbed.report.record import Arrival, ScenarioRecord, StepRecord, TestPath

__all__ = [
    "Arrival",
    "ScenarioRecord",
    "StepRecord",
    "TestPath",
    "html_page",
    "junit_xml",
    "record_json",
    "write_bundle",
]
