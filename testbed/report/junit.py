"""JUnit XML, as CI systems read it: FAIL is a failure, INCONCLUSIVE an error, NOT_APPLICABLE skipped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from testbed.model.verdict import Outcome
from testbed.report.record import ScenarioRecord

_ELEMENTS = {Outcome.FAIL: "failure", Outcome.INCONCLUSIVE: "error", Outcome.NOT_APPLICABLE: "skipped"}
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(records: Sequence[ScenarioRecord], suite: str = "testbed") -> str:
    """The whole run as one test suite; a case for every scenario."""
    outcomes = [r.outcome for r in records]
    root = Element(
        "testsuite",
        name=suite,
        tests=str(len(records)),
        failures=str(outcomes.count(Outcome.FAIL)),
        errors=str(outcomes.count(Outcome.INCONCLUSIVE)),
        skipped=str(outcomes.count(Outcome.NOT_APPLICABLE)),
        time=f"{sum(r.seconds for r in records):.3f}",
        timestamp=records[0].started.isoformat(timespec="seconds") if records else "",
    )
    for record in records:
        name = f"{record.scenario.name} [{record.mutant}]" if record.mutant else record.scenario.name
        case = SubElement(root, "testcase", classname=suite, name=_text(name), time=f"{record.seconds:.3f}")
        if element := _ELEMENTS.get(record.outcome):
            found = SubElement(case, element, message=_text(record.verdict.reason))
            steps = [
                f"{s.name or record.scenario.name}: {s.verdict.outcome}: {s.verdict.reason}" for s in record.steps
            ]
            found.text = _text("\n".join([record.scenario.promise, *steps, record.verdict.evidence]).strip())
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _text(text: str) -> str:
    """Without the control characters that XML 1.0 has no way to write."""
    return _FORBIDDEN.sub("?", text)
