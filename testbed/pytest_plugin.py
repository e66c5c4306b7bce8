"""A ``lab`` for other people's test suites: ``pytest --testbed-inventory bookinfo``.

The fixture is made once a session.  A lab that is up is used as it is and left up; one that isn't is brought up,
and removed at the end unless ``--testbed-keep`` is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from testbed.backends.contract import Applied
    from testbed.guests import Completed
    from testbed.lab.lab import Lab
    from testbed.report.record import ScenarioRecord


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("testbed")
    group.addoption("--testbed-inventory", default="two-nodes", help="the lab that the `lab` fixture is")
    group.addoption("--testbed-keep", action="store_true", help="leave a lab that was brought up running")


class LabFixture:
    """A lab that is up."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

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
        """Run scenarios by file, name or tag.  An assertion fails, with the reason, for each that doesn't pass."""
        from testbed.workflows.verify import verify

        records = verify(self.lab, scenarios, each=lambda _: None)
        failed = [r for r in records if r.verdict.outcome.exit_code]
        if failed:
            lines = [
                f"{r.scenario.name}: {r.verdict.outcome}: {r.verdict.reason} {r.verdict.evidence}" for r in failed
            ]
            pytest.fail("\n".join(lines), pytrace=False)
        return records

    def testinfra_host(self, node: str) -> Any:
        """A pytest-testinfra host of a node."""
        import testinfra

        from testbed.workflows.nodes import ssh_config_file

        return testinfra.get_host(f"ssh://{node}", ssh_config=str(ssh_config_file(self.lab)))


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
        yield LabFixture(made)
        if not was_up and not request.config.getoption("--testbed-keep"):
            down(made, lambda _: nullcontext(lambda _: None))
