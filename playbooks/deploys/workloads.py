"""Which workloads a node runs: ``host.data.workloads`` (text of workloads.json), taken up when it differs.

One fact and at most one command per node: each costs a round trip.
"""

import hashlib
from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

WANTED = "/etc/testbed/workloads.json"
APPLIED = "/etc/testbed/workloads.applied"
NODE_TOOL = "/opt/testbed/node/testbed_node.py"


class WorkloadsDigest(FactBase):
    """SHA-256 of the list that a node has taken up; nothing when it was changed since, or never taken up."""

    def command(self, root: str = "") -> str:
        return f"cat {root}{APPLIED} 2>/dev/null; echo; sha256sum {root}{WANTED} 2>/dev/null || true"

    def process(self, output: list[str]) -> str:
        applied, *present = [line.split()[0] for line in output if line.strip()] or [""]
        return applied if [applied] == present else ""


@operation()
def workloads(document: str, root: str = "") -> Iterator[StringCommand | str]:
    """Lay down the list of workloads and let the node take it up."""
    if host.get_fact(WorkloadsDigest, root=root) == hashlib.sha256(document.encode()).hexdigest():
        host.noop("the node runs these workloads")
        return
    path = f"{root}{WANTED}"
    tool = f"python3 -ISE {NODE_TOOL} converge"
    if root:
        tool = f"python3 -ISE {host.data.node_tool} converge --root {root}"
    # by rename: a machine may die at any time
    yield StringCommand(f"cat >{path}.new && mv {path}.new {path} && {tool}", _stdin=document)


workloads(name="Run the workloads", document=host.data.workloads, root=host.data.get("root", ""))
