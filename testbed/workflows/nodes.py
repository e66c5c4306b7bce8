"""Reaching nodes with other people's programs: SSH configuration, Ansible inventory, an interactive shell."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from testbed.errors import bad_input
from testbed.faults.breaking import Breaker
from testbed.lab.lab import SSH_PORT, Lab, NotUp


def ssh_config(lab: Lab) -> str:
    """An OpenSSH configuration for the lab's nodes: keys known from the build, reached through `testbed dial`."""
    known = _known_hosts(lab)
    blocks = []
    for node in lab.inventory.nodes:
        address = lab.inventory.management_address(node.name)
        lines = [
            f"Host {node.name} {lab.id}-{node.name}",
            f"  HostName {address}",
            f"  HostKeyAlias {node.name}",
            "  User root",
            f"  Port {SSH_PORT}",
            f"  IdentityFile {lab.client_key_file}",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {known}",
            "  GlobalKnownHostsFile /dev/null",
            "  StrictHostKeyChecking yes",
        ]
        if lab.private:
            command = [sys.executable, "-m", "testbed.host.dial", lab.id, "%h", "%p"]
            lines.append(f"  ProxyCommand {shlex.join(command)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _known_hosts(lab: Lab) -> Path:
    """The lab's known_hosts file, written anew: it follows from the keys beside it."""
    lines = []
    for node in lab.inventory.nodes:
        key = lab.host_key(node.name).public
        names = f"{node.name},{lab.inventory.management_address(node.name)}"
        lines.append(f"{names} {' '.join(key.split()[:2])}\n")
    return _write(lab.directories.pki / "known_hosts", "".join(lines))


def ssh_config_file(lab: Lab) -> Path:
    """The configuration as a file in the lab's folder."""
    return _write(lab.directories.pki / "ssh_config", ssh_config(lab))


def _write(path: Path, text: str) -> Path:
    if not path.is_file() or path.read_text() != text:
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.touch(mode=0o600)
        part.write_text(text)
        part.rename(path)
    return path


def require_up(lab: Lab, node: str | None = None) -> None:
    """Raise :class:`NotUp` unless the lab (and ``node``) is there, BadInput for a node that it doesn't have.

    Faults that a killed command left behind are undone first.
    """
    if node is not None:
        _require_known(lab, node)
    hypervisor = lab.hypervisor()
    if not hypervisor.machines():
        raise NotUp(lab.id, "find its machines")
    Breaker(lab).recover()
    machines = hypervisor.machines()
    if node is not None and node not in machines:
        raise NotUp(node, "find the machine", "libvirt has no machine for it")
    if node is not None and machines[node].power != "running":
        raise NotUp(node, "reach it", f"the machine is {machines[node].power}")


def _require_known(lab: Lab, node: str) -> None:
    names = [n.name for n in lab.inventory.nodes]
    if node not in names:
        raise bad_input(lab.file, f"the lab has no node {node!r}", f"one of: {', '.join(names)}")


def ssh_command(lab: Lab, node: str, command: tuple[str, ...]) -> list[str]:
    """The ssh(1) command line for ``command`` (or a shell) on ``node``."""
    require_up(lab, node)
    tty = ["-t"] if command == () or sys.stdin.isatty() else []
    quoted = [shlex.join(command)] if command else []
    return ["ssh", "-F", str(ssh_config_file(lab)), "-q", *tty, node, *quoted]


def ansible_inventory(lab: Lab) -> str:
    """An Ansible inventory (INI): nodes grouped by role, reached with the lab's SSH configuration."""
    config = ssh_config_file(lab)
    groups: dict[str, list[str]] = {}
    for node in lab.inventory.nodes:
        line = f"{node.name} ansible_user=root ansible_ssh_common_args='-F {config}'"
        groups.setdefault(node.role.replace("-", "_"), []).append(line)
    blocks = [f"[{role}]\n" + "\n".join(lines) for role, lines in groups.items()]
    variables = "[all:vars]\nansible_python_interpreter=/usr/bin/python3"
    return "\n\n".join([*blocks, variables]) + "\n"


def console_file(lab: Lab, node: str) -> Path:
    """The file that the node's serial console is written to."""
    _require_known(lab, node)
    file = lab.directories.consoles / f"{node}.log"
    if not file.is_file():
        raise NotUp(node, "show its console", "nothing has been written yet")
    return file
