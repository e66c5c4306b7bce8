"""Systemd units and their files (``host.data.units``): only what differs is written, and restarted for.

One fact a unit, and at most one command a file: what they are is decided in testbed.deploy.files, without a node.
"""

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from testbed.deploy.files import Found, UnitFiles, commands, found, look


class UnitFound(FactBase):
    """What a node has of a unit's files."""

    def command(self, data: dict, root: str = "") -> str:
        return look(UnitFiles.from_data(data), root)

    def process(self, output: list[str]) -> list[str]:
        return output


@operation()
def unit_files(data: dict, root: str = "") -> Iterator[StringCommand | str]:
    """Lay the files down, link what lies on the shared disk, start or restart the unit."""
    lines = host.get_fact(UnitFound, data=data, root=root)
    has = found(lines, root) if lines else Found()
    steps = commands(UnitFiles.from_data(data), has, root)
    if not steps:
        host.noop("nothing differs and the unit runs")
    for step in steps:
        yield StringCommand(step.text, _stdin=step.stdin) if step.stdin is not None else step.text


for data in host.data.units:
    unit_files(name=f"Set up {data['unit']}", data=data, root=host.data.get("root", ""))
