"""Reaching into a lab's network namespace without being in it, and without a route to it.

A socket belongs for good to the namespace in which its thread was when it was made, so one thread enters,
connects, and ends; the socket then works from anywhere.  Python 3.11 has no ``os.setns``: libc's is called.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from testbed.host import processes
from testbed.host.directories import LabDirectories

_CLONE_NEWNET = 0x40000000
Result = TypeVar("Result")


def run_in(namespace: Path, action: Callable[[], Result]) -> Result:
    """Run ``action`` in a thread of its own that has entered a network namespace (``/proc/PID/ns/net``).

    Raises what ``action`` raises, and OSError if the namespace is gone or entering is not permitted.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            _enter(namespace)
            outcome.append(action())
        except BaseException as e:  # noqa: BLE001 - handed to the caller's thread
            failure.append(e)

    thread = threading.Thread(target=work, name=f"in {namespace}", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _enter(namespace: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace.open("rb") as handle:
        if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"enter {namespace}: {os.strerror(number)}")


def dial(namespace: Path | int, address: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection made inside a namespace, given as a path or as the pid of a process in it.

    ``timeout`` in seconds holds for connecting and stays set on the socket.  Raises OSError.
    """
    path = Path(f"/proc/{namespace}/ns/net") if isinstance(namespace, int) else namespace
    return run_in(path, lambda: socket.create_connection((address, port), timeout=timeout))


def command_in(pid: int, arguments: Sequence[str], *, mount: bool = True) -> list[str]:
    """The command that runs ``arguments`` in the network (and mount) namespace of a process."""
    return ["nsenter", "--target", str(pid), "--net", *(["--mount"] if mount else []), "--", *arguments]


class Network(Protocol):
    """How to reach the addresses of a lab."""

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A TCP connection to an address of the lab; raises OSError."""


class HostNetwork:
    """A lab on the system's libvirt daemon: its networks are the host's own."""

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A plain connection."""
        return socket.create_connection((address, port), timeout=timeout)


class LabNetwork:
    """A lab on its private daemon: dials in the lab's namespace.  Safe to use from several threads."""

    def __init__(self, lab: str | LabDirectories) -> None:
        self.directories = LabDirectories(lab) if isinstance(lab, str) else lab
        self._known: tuple[Path, int] | None = None  # a path, and the inode that says it is still the same

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A connection made in the lab's namespace; ConnectionError (an OSError) if the lab isn't up."""
        return dial(self.namespace(), address, port, timeout)

    def namespace(self) -> Path:
        """The lab's network namespace, as a path in ``/proc``."""
        if self._known is not None:
            path, inode = self._known
            try:
                if path.stat().st_ino == inode:
                    return path
            except OSError:  # that process ended: ask again
                pass
        for process in processes.of_lab(self.directories.state):
            path = Path(f"/proc/{process.pid}/ns/net")
            if process.contained:
                self._known = path, path.stat().st_ino
                return path
        raise ConnectionError(f"lab {self.directories.lab_id} has no namespace on this host: it is not up")
