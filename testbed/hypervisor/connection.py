"""A connection to libvirt whose errors are ours, and nothing that prints to stderr behind our back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from testbed.errors import HostNotReady, LabError

libvirt.registerErrorHandler(lambda _context, _error: None, None)


class HypervisorError(LabError):
    """libvirt refused or failed; ``code`` is its ``VIR_ERR_*`` number."""

    def __init__(self, subject: str, action: str, error: libvirt.libvirtError) -> None:
        super().__init__(subject, action, str(error).removeprefix("internal error: "))
        self.code: int = error.get_error_code()


@contextmanager
def translated(subject: str, action: str) -> Iterator[None]:
    """Turn libvirt's exceptions into :class:`HypervisorError`."""
    try:
        yield
    except libvirt.libvirtError as e:
        raise HypervisorError(subject, action, e) from e


def connect(uri: str) -> libvirt.virConnect:
    """Open ``uri``.  Raises :class:`HostNotReady` when nothing answers there."""
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as e:
        raise HostNotReady("libvirt", f"connect to {uri}", str(e), "run: testbed doctor") from e
