"""Findings for programs: JSON lists, and SARIF 2.1.0 for code hosts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from testbed.resources.linting.findings import CHECKS, Finding, Severity

INVALID = "invalid"
IGNORED = "ignored-document"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """One plain mapping for each finding."""
    return [
        {
            "file": f.location.file,
            "line": f.location.line,
            "column": f.location.column,
            "field": f.location.field,
            "severity": f.severity.value,
            "code": f.code,
            "message": f.message,
            "effect": f.effect,
            "advice": f.advice,
        }
        for f in findings
    ]


def to_sarif(findings: Sequence[Finding], version: str) -> dict[str, Any]:
    """A SARIF 2.1.0 log with one run; ``version`` is the tool's."""
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "testbed lint", "version": version, "rules": _rules()}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(f) for f in findings],
            }
        ],
    }


def _rules() -> list[dict[str, Any]]:
    rules = [(c.code, c.summary, c.effect, c.severity) for c in CHECKS]
    rules += [
        (INVALID, "What Istio, or this mesh, refuses.", "nothing is applied", Severity.ERROR),
        (IGNORED, "A document that the mesh does not read.", "it is left out", Severity.INFO),
    ]
    return [
        {
            "id": code,
            "shortDescription": {"text": summary},
            "fullDescription": {"text": f"{summary} What Istio does: {effect}."},
            "defaultConfiguration": {"level": _LEVELS[severity]},
        }
        for code, summary, effect, severity in rules
    ]


def _result(finding: Finding) -> dict[str, Any]:
    place = finding.location
    region = {"startLine": place.line, "startColumn": max(place.column, 1)} if place.line else {}
    physical: dict[str, Any] = {"artifactLocation": {"uri": place.file.replace("\\", "/")}}
    if region:
        physical["region"] = region
    location: dict[str, Any] = {"physicalLocation": physical}
    if place.field:
        location["logicalLocations"] = [{"fullyQualifiedName": place.field}]
    text = f"{finding.message}. {finding.effect}. {finding.advice}."
    return {
        "ruleId": finding.code,
        "level": _LEVELS[finding.severity],
        "message": {"text": text},
        "locations": [location],
    }
