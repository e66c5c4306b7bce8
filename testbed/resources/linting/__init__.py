"""Lint: what is wrong, or probably not meant, in resources that belong together."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.documents import Document
from testbed.errors import Problem
from testbed.model.topology import Topology
from testbed.resources.linting import destinations, gateways, policies, routing, versions  # noqa: F401 - they register
from testbed.resources.linting.context import Context
from testbed.resources.linting.findings import CHECKS, Check, Finding, Severity
from testbed.resources.linting.output import IGNORED, INVALID, to_json, to_sarif
from testbed.resources.loading import DEFAULT_NAMESPACE, read
from testbed.resources.resource import ResourceSet


def lint(documents: Sequence[Document], resources: ResourceSet, topology: Topology | None = None) -> list[Finding]:
    """What the checks find in resources that were loaded from ``documents``, in the order of the files.

    Without a topology it can't be said which hosts and workloads there are, so nothing is said of that.
    """
    context = Context(tuple(documents), resources, topology)
    findings = [finding for check in CHECKS for finding in check.run(context)]
    findings += [_ignored(note) for note in resources.ignored]
    return _in_order(findings, documents)


def lint_documents(
    documents: Sequence[Document], topology: Topology | None = None, namespace: str = DEFAULT_NAMESPACE
) -> list[Finding]:
    """Load and lint: what can't be loaded is a finding (``invalid``), the rest is checked all the same."""
    resources, problems = read(documents, namespace)
    return _in_order([*map(_invalid, problems), *lint(documents, resources, topology)], documents)


def _invalid(problem: Problem) -> Finding:
    effect = "nothing of it is applied"
    return Finding(problem.location, Severity.ERROR, INVALID, problem.message, effect, problem.next_step)


def _ignored(problem: Problem) -> Finding:
    return Finding(problem.location, Severity.INFO, IGNORED, problem.message, "it is left out", "nothing")


def _in_order(findings: list[Finding], documents: Sequence[Document]) -> list[Finding]:
    files = {name: i for i, name in enumerate(dict.fromkeys(d.file for d in documents))}
    return sorted(
        findings, key=lambda f: (files.get(f.location.file, -1), f.location.line, f.location.column, f.code)
    )


__all__ = ["CHECKS", "Check", "Finding", "Severity", "lint", "lint_documents", "to_json", "to_sarif"]
