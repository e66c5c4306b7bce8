"""A ``lab`` for other people's test suites: ``pytest --testbed-inventory bookinfo``.

The fixture is made once a session.  A lab that is up is used as it is and left up; one that isn't is brought up,
and removed at the end unless ``--testbed-keep`` is given.

    @pytest.mark.parametrize("path", ["/reviews/0", "/reviews/1"])
    def test_reviews_answer(lab, path):
        lab.check(when={"from": "client", "service": "reviews", "path": path}, expect={"status": 200})
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from testbed.backends.contract import Applied
    from testbed.guests import Completed
    from testbed.lab.lab import Lab
    from testbed.report.record import ScenarioRecord


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("testbed")
    group.addoption("--testbed-inventory", default="two-nodes", help="the lab that the `lab` fixture is")
    group.addoption("--testbed-evidence", default="evidence", help="the folder that bundles are written to")
    group.addoption("--testbed-keep", action="store_true", help="leave a lab that was brought up running")


class LabFixture:
    """A lab that is up."""

    def __init__(self, lab: Lab, evidence: Path | None = None) -> None:
        self.lab = lab
        self.evidence = evidence
        """Where bundles are written; None writes none."""

    @property
    def url(self) -> str:
        """Where its first forwarded gateway is on this host, with a slash at the end."""
        from testbed.workflows.up import urls

        return next(iter(urls(self.lab).values()))

    def run(self, node: str, *command: str, check: bool = True) -> Completed:
        """Run a command on a node, as root."""
        return self.lab.connection(node).run(command, check=check)

    def apply(self, *files: str) -> Applied:
        """Put resources into the mesh; returns when they are in force."""
        from testbed.workflows.mesh import apply

        return apply(self.lab, files)[1]

    def verify(self, *scenarios: str) -> Sequence[ScenarioRecord]:
        """Run scenarios by file, name or tag.  Fails, with reason and bundle, for each that does not pass; skips,
        with the reason, when none fails and one doesn't apply to this lab."""
        from testbed.workflows.verify import verify

        return _passed(verify(self.lab, scenarios, evidence=self.evidence))

    def check(
        self,
        *,
        when: Mapping[str, Any],
        expect: Mapping[str, Any],
        given: Mapping[str, Any] | None = None,
        name: str = "check",
        alpha: float | None = None,
        beta: float | None = None,
    ) -> ScenarioRecord:
        """Expect something of the mesh, in the words of a scenario file, wrongly refused with the chance ``alpha``
        and wrongly accepted with ``beta`` (0.001 each if left out).  Fails, with reason and bundle, unless it
        passes; skips where it doesn't apply; raises BadInput naming a field that is wrong."""
        from testbed.workflows.verify import check

        record = check(
            self.lab,
            when=when,
            expect=expect,
            given=given,
            name=name,
            alpha=alpha,
            beta=beta,
            evidence=self.evidence,
        )
        return _passed([record])[0]

    def testinfra_host(self, node: str) -> Any:
        """A pytest-testinfra host of a node."""
        import testinfra

        from testbed.workflows.nodes import ssh_config_file

        return testinfra.get_host(f"ssh://{node}", ssh_config=str(ssh_config_file(self.lab)))


def _passed(records: Sequence[ScenarioRecord]) -> Sequence[ScenarioRecord]:
    """The records, all of them PASS.  A failure shows the promise, verdict, reason and bundle of each that is not,
    a skip the reason of each that does not apply, for what was not asked has not been shown."""
    lines = [
        f"{r.scenario.name}: {r.verdict.outcome}: {r.scenario.promise}\n  {r.verdict.reason}\n  "
        f"evidence: {r.verdict.evidence or 'none was kept'}"
        for r in records
        if r.verdict.outcome.exit_code
    ]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    left_out = [f"{r.scenario.name}: {r.outcome}: {r.verdict.reason}" for r in records if not r.verdict.passed]
    if left_out:
        pytest.skip("; ".join(left_out))
    return records


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[LabFixture]:
    """The lab of ``--testbed-inventory``, up."""
    from testbed.workflows.down import down
    from testbed.workflows.loading import load_lab
    from testbed.workflows.status import status
    from testbed.workflows.up import up

    made = load_lab(request.config.getoption("--testbed-inventory"))
    with made.closing():
        was_up = status(made).up
        up(made, lambda _: nullcontext(lambda _: None), prove=False)
        yield LabFixture(made, Path(request.config.getoption("--testbed-evidence")))
        if not was_up and not request.config.getoption("--testbed-keep"):
            down(made, lambda _: nullcontext(lambda _: None))
