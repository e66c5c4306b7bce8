"""Where Testbed keeps things on the host, by the XDG base directory specification.

The cache may be deleted at any time; a lab's state is its machines' disks and keys, and goes with ``down``.
Nothing in here says whether a lab runs: libvirt and ``/proc`` know that (see :mod:`testbed.host.daemon`).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path


def _xdg(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification: a relative path in these variables is invalid and to be ignored.
    return Path(value) if value.startswith("/") else Path.home() / fallback


def cache_root() -> Path:
    """What can be made again: images, artifacts, probe results."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "testbed"


def state_root() -> Path:
    """What can't be made again: one folder per lab below ``labs``."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "testbed"


def runtime_root() -> Path:
    """Short-lived files, gone after a reboot."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/") and Path(base).is_dir():
        return Path(base) / "testbed"
    return Path("/run/testbed") if os.geteuid() == 0 else Path(f"/tmp/testbed-{os.geteuid()}")  # noqa: S108


def testbed_home() -> Path:
    """The folder with ``inventories/``, ``images/`` and ``playbooks/``: ``TESTBED_HOME``, else the checkout."""
    chosen = os.environ.get("TESTBED_HOME", "")
    return Path(chosen).resolve() if chosen else Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class LabDirectories:
    """The folders of one lab.  Making the value touches nothing; :meth:`create` makes the folders."""

    lab_id: str
    state: Path = field(default=Path())
    runtime: Path = field(default=Path())

    def __post_init__(self) -> None:
        if self.state == Path():
            object.__setattr__(self, "state", state_root() / "labs" / self.lab_id)
        if self.runtime == Path():
            object.__setattr__(self, "runtime", runtime_root() / self.lab_id)

    @property
    def volumes(self) -> Path:
        """Disks of the nodes, one folder that nothing else writes to."""
        return self.state / "volumes"

    @property
    def consoles(self) -> Path:
        """Serial console output, one file per node."""
        return self.state / "consoles"

    @property
    def pki(self) -> Path:
        """The lab's certificate authority and SSH keys."""
        return self.state / "pki"

    @property
    def libvirt(self) -> Path:
        """What the private libvirt daemon sees as its own folders: ``etc``, ``lib`` and ``log``."""
        return self.state / "libvirt"

    @property
    def log(self) -> Path:
        """Log of the commands run on this lab."""
        return self.state / "testbed.log"

    @property
    def lock(self) -> Path:
        """The lab's lock file: beside its folder, which goes while the lock is held."""
        return self.state.with_name(f"{self.state.name}.lock")

    def create(self) -> None:
        """Make the folders, readable by their owner only.  Safe to repeat."""
        for root in (self.state, self.runtime):
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(0o700)
        for folder in (self.volumes, self.consoles, self.pki):
            folder.mkdir(exist_ok=True)

    def remove(self) -> None:
        """Delete the lab's folders, and the folders above them once they are empty.  Safe to repeat."""
        for root in (self.runtime, self.state):
            if root.is_symlink() or root.is_file():
                root.unlink()
            else:
                shutil.rmtree(root, ignore_errors=True)
        self.remove_empty_parents()

    def remove_empty_parents(self) -> None:
        """Delete the folders above the lab's, as far as nothing else is in them."""
        for parent in (self.runtime.parent, self.state.parent, self.state.parent.parent):
            try:
                parent.rmdir()
            except OSError:  # not empty, or gone: another lab is there, or was
                continue


def existing_labs() -> list[LabDirectories]:
    """Labs that have a state folder, by id, whether they run or not."""
    labs = state_root() / "labs"
    return [LabDirectories(p.name) for p in sorted(labs.iterdir()) if p.is_dir()] if labs.is_dir() else []
