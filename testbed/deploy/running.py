"""Run a pyinfra deploy against nodes.

In a child process, because pyinfra works with gevent, which patches the standard library of whoever imports it.
The deploy and its data go to the child's standard input, never to a file: data may hold secrets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from testbed.errors import LabError, WaitTimeout


class DeployFailed(LabError):
    """pyinfra could not reach a node, or an operation failed on it."""


@dataclass(frozen=True)
class DeployHost:
    """A node and what the deploy reads as ``host.data``.  ``local`` runs on this host, without a connection."""

    name: str
    data: Mapping[str, object] = field(default_factory=dict, repr=False)
    connector: Literal["ssh", "local"] = "ssh"


@dataclass(frozen=True)
class HostOutcome:
    """How it went on one node."""

    operations: int = 0
    changed: int = 0
    """Operations that had anything to do."""
    output: str = ""
    """What the operations' commands wrote."""
    error: str = ""


@dataclass(frozen=True)
class DeployResult:
    """How it went, by node."""

    hosts: Mapping[str, HostOutcome]

    @property
    def changed(self) -> bool:
        """Whether anything was changed anywhere."""
        return any(outcome.changed for outcome in self.hosts.values())

    @property
    def failed(self) -> Mapping[str, str]:
        """Node -> why."""
        return {name: outcome.error for name, outcome in self.hosts.items() if outcome.error}

    def require(self) -> DeployResult:
        """Itself; :class:`DeployFailed` naming the first node that failed and how many did."""
        for name, error in self.failed.items():
            more = f" (and {len(self.failed) - 1} more nodes)" if len(self.failed) > 1 else ""
            raise DeployFailed(name, "deploy", f"{error}{more}", f"see: testbed logs {name}")
        return self


def run_deploy(
    deploy: Path, hosts: Sequence[DeployHost], *, ssh_config: Path | None = None, limit: float = 120
) -> DeployResult:
    """Run the operations of ``deploy`` on all hosts at once; every host's outcome is in the result.

    ``ssh_config`` (OpenSSH's format) says how a node is reached and which key it must show.  ``limit`` is in
    seconds for all of it; passing it raises :class:`WaitTimeout`.  Raises :class:`DeployFailed` only when
    pyinfra itself could not run; see :meth:`DeployResult.require` for nodes.
    """
    request = {
        "deploy": str(deploy),
        "ssh_config": str(ssh_config) if ssh_config else "",
        "hosts": [{"name": h.name, "connector": h.connector, "data": dict(h.data)} for h in hosts],
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "testbed.deploy.child", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # its own group, so that proxy commands of its connections end with it
    )
    try:
        stdout, stderr = child.communicate(json.dumps(request).encode(), timeout=limit)
    except subprocess.TimeoutExpired:
        raise WaitTimeout(f"deploy {deploy.stem}", limit, "pyinfra was still at work") from None
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode != 0:
        lines = stderr.decode(errors="replace").strip().splitlines()
        raise DeployFailed(
            f"deploy {deploy.stem}", "run pyinfra", lines[-1] if lines else f"status {child.returncode}"
        )
    said = json.loads(stdout)
    return DeployResult({name: HostOutcome(**outcome) for name, outcome in said.items()})
