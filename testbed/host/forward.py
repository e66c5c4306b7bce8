"""A loopback port of the host that leads into a lab: ``python -m testbed.host.forward``, one process per lab.

The starter makes the listening socket and hands it over, so a taken port is its own error, and connections wait
in the backlog while the process starts.  It is found again through ``/proc`` (see :mod:`testbed.host.processes`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import LabError
from testbed.host import processes
from testbed.host.directories import LabDirectories
from testbed.host.namespaces import HostNetwork, LabNetwork, Network
from testbed.waiting import NotYet, wait_until

_MODULE = "testbed.host.forward"
_LOOPBACK = "127.0.0.1"
_CHUNK = 1 << 16
_DIAL_LIMIT = 10.0


class PortTaken(LabError):
    """The wanted loopback port can't be had; ``port`` is its number."""

    def __init__(self, port: int, cause: str) -> None:
        next_step = "end that program, or give the gateway's `forward` another port (0 picks a free one)"
        super().__init__(f"port {port}", "forward it to the gateway", cause, next_step)
        self.port = port


@dataclass(frozen=True)
class Forward:
    """A running forwarder: loopback ``port`` to ``address``:``target_port`` in the lab."""

    pid: int
    port: int
    address: str
    target_port: int


def find_forwards(directories: LabDirectories) -> list[Forward]:
    """The lab's forwarders, by port."""
    found = []
    for process in processes.of_lab(directories.state):
        if _MODULE in process.arguments and not process.contained:
            at = process.arguments.index(_MODULE)
            port, address, target_port = process.arguments[at + 4 : at + 7]
            found.append(Forward(process.pid, int(port), address, int(target_port)))
    return sorted(found, key=lambda f: f.port)


def find_forward(directories: LabDirectories, address: str = "") -> Forward | None:
    """The lab's first forwarder (to ``address``), if one runs."""
    return next((f for f in find_forwards(directories) if address in ("", f.address)), None)


def start_forward(
    directories: LabDirectories,
    address: str,
    target_port: int,
    *,
    port: int = 0,
    private: bool = True,
    limit: float = 10,
) -> int:
    """Forward a loopback port (0: a free one) and return its number once connections are taken.

    A forwarder that does just this is kept; another one to this address is ended first.  ``private``: dial in the
    lab's namespace, not the host's.  Raises :class:`PortTaken`, and LabError if the process doesn't start.
    """
    running = find_forward(directories, address)
    if running and running.target_port == target_port and port in (0, running.port):
        return running.port
    stop_forward(directories, address)
    directories.create()
    with _listen(port) as listener:
        port = listener.getsockname()[1]
        number = str(listener.fileno())
        target = [str(port), address, str(target_port), "private" if private else "host"]
        with (directories.state / "forward.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", _MODULE, directories.lab_id, str(directories.state), number, *target],
                env={**os.environ, processes.ENVIRONMENT: str(directories.state)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
    assert child.stdout is not None  # noqa: S101 - for the type checker
    with child.stdout:
        ready, _, _ = select.select([child.stdout], [], [], limit)
        if not ready or not child.stdout.readline():
            child.kill()
            child.wait()
            subject = f"lab {directories.lab_id}"
            raise LabError(subject, "forward a port", "its process did not start", f"see {log.name}")
    return port


def stop_forward(directories: LabDirectories, address: str = "", limit: float = 5) -> None:
    """End the lab's forwarders (those to ``address``), with the connections through them.  Safe to repeat."""
    for running in find_forwards(directories):
        if address in ("", running.address):
            try:
                os.kill(running.pid, signal.SIGTERM)
            except ProcessLookupError:  # ended meanwhile
                continue

    def gone() -> None:
        if still := find_forward(directories, address):
            raise NotYet(f"pid {still.pid} is still there")

    wait_until(f"lab {directories.lab_id}: end of its forwarder", gone, limit=limit, interval=0.02)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_LOOPBACK, port))
        listener.listen(128)
    except OSError as e:
        listener.close()
        if e.errno == errno.EADDRINUSE:
            raise PortTaken(port, f"in use by {processes.listener_on(port) or 'another program'}") from None
        raise PortTaken(port, e.strerror or str(e)) from None
    return listener


async def _serve(listener: socket.socket, network: Network, address: str, target_port: int) -> None:
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(32, "dial")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inside = await loop.run_in_executor(threads, network.dial, address, target_port, _DIAL_LIMIT)
        except OSError as e:
            sys.stderr.write(f"dial {address}:{target_port}: {e}\n")
            sys.stderr.flush()
            _reset(writer)
            return
        inside.setblocking(False)
        far_reader, far_writer = await asyncio.open_connection(sock=inside)
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        except OSError:  # one end broke off: the other is to see that
            _reset(far_writer)
            _reset(writer)
        finally:
            far_writer.close()
            writer.close()

    server = await asyncio.start_server(accept, sock=listener)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    loop.add_signal_handler(signal.SIGTERM, lambda: os._exit(0))  # nothing to save; dials may hang in threads
    async with server:
        await server.serve_forever()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset: its peer must not take this for the end of a whole answer."""
    # socket(7): lingering for 0 s makes close() send a reset
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy to the end and pass the end on, while the other direction goes on."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def main(arguments: list[str]) -> int:
    """Serve until ended by a signal."""
    lab_id, state, descriptor, _, address, target_port, kind = arguments
    directories = LabDirectories(lab_id, Path(state))
    network: Network = LabNetwork(directories) if kind == "private" else HostNetwork()
    asyncio.run(_serve(socket.socket(fileno=int(descriptor)), network, address, int(target_port)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
