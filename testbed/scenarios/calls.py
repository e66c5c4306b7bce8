"""Expectations as Python calls, for tests that are written in Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.documents import Document, validate
from testbed.model.scenario import Scenario
from testbed.report.record import ScenarioRecord
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.loading import ScenarioFile
from testbed.scenarios.running import run_scenario


def check(
    lab: LabUnderTest,
    *,
    when: Mapping[str, Any],
    expect: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
    name: str = "check",
    alpha: float | None = None,
    beta: float | None = None,
    folder: Path | None = None,
) -> ScenarioRecord:
    """Run what a scenario file would say, written as Python values with the file's field names.

    ``alpha`` and ``beta`` are the chances of a wrong FAIL and a wrong PASS, 0.001 each if left out.  ``folder`` is
    what resource files are relative to (the working directory if left out).  Raises
    :class:`~testbed.errors.BadInput` naming the field that is wrong.

        check(lab, when={"from": "client", "service": "reviews"}, expect={"status": 200})
    """
    value = {
        "name": name,
        "description": "written as a Python call",
        "promise": f"expect {', '.join(expect)}",
        "when": dict(when),
        "expect": dict(expect),
        **({"given": dict(given)} if given else {}),
        **{chance: value for chance, value in (("alpha", alpha), ("beta", beta)) if value is not None},
    }
    document = Document(name, value)
    scenario = validate(Scenario, document)
    return run_scenario(ScenarioFile((folder or Path.cwd()) / f"{name}.yaml", scenario, document), lab)
