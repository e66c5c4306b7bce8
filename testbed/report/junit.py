"""JUnit XML, as CI systems read it: FAIL is a failure, INCONCLUSIVE an error, NOT_APPLICABLE skipped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from testbed.model.verdict import Outcome
from testbed.report.record import ScenarioRecord
from testbed.report.score import MutationScore

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


def score_junit(scores: Sequence[MutationScore], suite: str = "testbed mutants") -> str:
    """Mutants as one test suite, a case for each and one for its scenario with nothing broken: what was not noticed
    is a failure, what changes nothing or was refused by the mesh is skipped."""
    root = Element("testsuite", name=suite)
    counts: Counter[str] = Counter()
    for score in scores:
        case = SubElement(root, "testcase", classname=suite, name=_text(f"{score.scenario.name} [nothing broken]"))
        if score.unsound:
            outcome = score.baseline.outcome if score.baseline else Outcome.INCONCLUSIVE
            SubElement(case, _ELEMENTS.get(outcome, "error"), message=_text(score.unsound))
            counts[_ELEMENTS.get(outcome, "error")] += 1
        for result in score.results:
            name = _text(f"{score.scenario.name} [{result.name}]")
            seconds = result.record.seconds if result.record else 0.0
            case = SubElement(root, "testcase", classname=suite, name=name, time=f"{seconds:.3f}")
            if not result.killed:
                tag = "failure" if result.counts else "skipped"
                SubElement(case, tag, message=_text(f"{result.said}: {result.reason}"))
                counts[tag] += 1
        properties = SubElement(case, "properties")
        SubElement(properties, "property", name="mutation score", value=_text(score.said))
    root.attrib |= {
        f"{tag}s" if tag != "skipped" else tag: str(counts[tag]) for tag in ("failure", "error", "skipped")
    }
    root.set("tests", str(len(root)))
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _text(text: str) -> str:
    """Without the control characters that XML 1.0 has no way to write."""
    return _FORBIDDEN.sub("?", text)
