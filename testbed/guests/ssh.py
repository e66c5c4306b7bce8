"""SSH to a node over a socket that somebody else dialed, with a host key known beforehand."""

from __future__ import annotations

import logging
import shlex
import socket
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO

import paramiko

from testbed.errors import LabError, WaitTimeout
from testbed.guests.connection import CommandFailed, Completed
from testbed.guests.keys import KeyPair

FEED = 1 << 20
"""Bytes that are handed to paramiko at once."""
CHUNK = 1 << 16
logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what it has to say comes as an exception, too


class NotReachable(LabError):
    """The node doesn't answer on SSH."""


class HostKeyMismatch(LabError):
    """Something answers, with another host key than the node was built with."""


class SshConnection:
    """A kept connection to one node; commands share it, each in a channel of its own.  Thread-safe."""

    def __init__(
        self,
        node: str,
        dial: Callable[[float], socket.socket],
        client_key: KeyPair,
        host_key: str,
        *,
        user: str = "root",
    ) -> None:
        """``dial(limit)`` gives a connected socket; ``host_key`` is the node's public key line."""
        self._node = node
        self._dial = dial
        self._key = paramiko.Ed25519Key.from_private_key(StringIO(client_key.private.decode()))
        self._host_key = paramiko.Ed25519Key(data=b64decode(host_key.split()[1]))
        self._user = user
        self._transport: paramiko.Transport | None = None
        self._own_port = 0
        self._lock = threading.Lock()
        self._ahead: dict[tuple[str, ...], SshProgram] = {}
        self._ahead_lock = threading.Lock()

    @property
    def node(self) -> str:
        """The node's name in the inventory."""
        return self._node

    def connect(self, limit: float = 10) -> None:
        """Make the connection unless there is one.  ``limit`` is in seconds, for each stage of it.

        Raises :class:`NotReachable`, or :class:`HostKeyMismatch`, which waiting does not mend.
        """
        with self._lock:
            if self._transport is None or not self._transport.is_active():
                self._transport = self._open(limit)

    def close(self) -> None:
        """Close the connection; the next command makes a new one."""
        with self._lock:
            if self._transport is not None:
                self._transport.close()
            self._transport = None

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 60, check: bool = True) -> Completed:
        """Run to the end.  With ``check``, a status other than 0 raises :class:`CommandFailed`."""
        with self._command(argv, stdin, limit) as channel:
            errors: list[bytes] = []
            reader = threading.Thread(target=_gather, args=(channel.recv_stderr, errors), daemon=True)
            reader.start()
            output: list[bytes] = []
            try:
                _drain(channel.recv, output, deadline=time.monotonic() + limit)
            except TimeoutError:
                raise WaitTimeout(
                    f"{self._node}: {shlex.join(argv)[:80]}", limit, _tail(b"".join(output))
                ) from None
            status = channel.recv_exit_status()
            reader.join(limit)
        done = Completed(status, b"".join(output), b"".join(errors))
        if check and status != 0:
            cause = f"exit status {status}: {_tail(done.stderr) or _tail(done.stdout)}"
            raise CommandFailed(self._node, shlex.join(argv)[:120], cause, f"look at it: testbed ssh {self._node}")
        return done

    @contextmanager
    def stream(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 600) -> Iterator[Iterator[bytes]]:
        """Run and yield its output line by line as it comes; leaving the context ends the command."""
        with self._command(argv, stdin, limit) as channel:
            yield self._lines(channel, shlex.join(argv)[:80], limit)

    def _lines(self, channel: paramiko.Channel, what: str, limit: float) -> Iterator[bytes]:
        deadline = time.monotonic() + limit
        rest = b""
        while True:
            channel.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = channel.recv(CHUNK)
            except TimeoutError:
                raise WaitTimeout(f"{self._node}: {what}", limit, _tail(rest)) from None
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            yield from lines
        if rest:
            yield rest
        if (status := channel.recv_exit_status()) != 0:
            errors: list[bytes] = []
            _drain(channel.recv_stderr, errors)
            raise CommandFailed(self._node, what, f"exit status {status}: {_tail(b''.join(errors))}")

    def ask(self, port: int, request: Callable[[int], bytes], limit: float) -> bytes:
        """Send a request to a port of the node's own loopback and return the answer; nothing is started for it.

        ``request`` is told the port of this host that the SSH connection comes from.  ``limit`` is in seconds.
        Raises :class:`NotReachable` when nothing listens there or it answers nothing.
        """
        self.connect()
        transport = self._transport
        assert transport is not None  # noqa: S101  (connect raises otherwise)
        answer: list[bytes] = []
        there = ("127.0.0.1", port)
        try:
            with transport.open_channel("direct-tcpip", there, ("127.0.0.1", 0), timeout=limit) as channel:
                channel.settimeout(limit)
                channel.sendall(request(self._own_port))
                channel.shutdown_write()
                _drain(channel.recv, answer)
        except TimeoutError:
            raise WaitTimeout(f"{self._node}: an answer on port {port}", limit, _tail(b"".join(answer))) from None
        except (paramiko.SSHException, OSError, EOFError) as e:
            raise NotReachable(self._node, f"ask on its port {port}", str(e) or type(e).__name__) from e
        if not answer:
            raise NotReachable(self._node, f"ask on its port {port}", "it ended without an answer")
        return b"".join(answer)

    def start(self, argv: Sequence[str]) -> SshProgram:
        """Run a program that is talked to until it is closed, or the connection is."""
        with self._ahead_lock:
            program = self._ahead.pop(tuple(argv), None)
        return program if program is not None and program.alive else self._program(argv)

    def start_ahead(self, argv: Sequence[str]) -> None:
        """Connect, and run what :meth:`start` will be asked for: it is there by then.  That waits for this."""
        with self._ahead_lock:
            self._ahead[tuple(argv)] = self._program(argv)

    def _program(self, argv: Sequence[str]) -> SshProgram:
        return SshProgram(self._node, shlex.join(argv)[:80], self._channel(argv, 30))

    def _channel(self, argv: Sequence[str], limit: float) -> paramiko.Channel:
        self.connect()
        transport = self._transport
        assert transport is not None  # noqa: S101  (connect raises otherwise)
        try:
            channel = transport.open_session(timeout=min(limit, 30))
            channel.settimeout(limit)
            channel.exec_command(shlex.join(argv))
        except (paramiko.SSHException, OSError, EOFError) as e:
            self.close()
            raise NotReachable(self._node, "run a command over SSH", str(e) or type(e).__name__) from e
        return channel

    @contextmanager
    def _command(self, argv: Sequence[str], stdin: bytes, limit: float) -> Iterator[paramiko.Channel]:
        channel = self._channel(argv, limit)
        try:
            feeder = threading.Thread(target=_feed, args=(channel, stdin), daemon=True)
            feeder.start()
            yield channel
        finally:
            channel.close()

    def _open(self, limit: float) -> paramiko.Transport:
        try:
            sock = self._dial(limit)
        except OSError as e:
            raise NotReachable(self._node, "connect to SSH", str(e)) from e
        transport = paramiko.Transport(sock, default_window_size=1 << 22)
        transport.daemon = True
        self._own_port = sock.getsockname()[1]
        transport.banner_timeout = transport.auth_timeout = transport.handshake_timeout = limit
        try:
            transport.start_client(timeout=limit)
            if transport.get_remote_server_key() != self._host_key:
                raise HostKeyMismatch(
                    self._node,
                    "check the SSH host key",
                    "another machine answers at the node's address",
                    "run: testbed down, then testbed up",
                )
            transport.auth_publickey(self._user, self._key)
        except (paramiko.SSHException, OSError, EOFError) as e:
            transport.close()
            raise NotReachable(self._node, "connect to SSH", str(e) or type(e).__name__) from e
        except HostKeyMismatch:
            transport.close()
            raise
        return transport


class SshProgram:
    """A program at the other end of a channel; see :class:`~testbed.guests.connection.Program`."""

    def __init__(self, node: str, what: str, channel: paramiko.Channel) -> None:
        self._node = node
        self._what = what
        self._channel = channel

    @property
    def alive(self) -> bool:
        """Whether its channel is open and it has not ended."""
        transport = self._channel.get_transport()
        return transport.is_active() and not self._channel.closed and not self._channel.exit_status_ready()

    def ask(self, line: bytes, limit: float) -> bytes:
        """Send a line and return the answer; LabError when the program ended, WaitTimeout when it is late."""
        deadline = time.monotonic() + limit
        answer = b""
        try:
            self._channel.settimeout(limit)
            self._channel.sendall(line + b"\n")
            while not answer.endswith(b"\n"):
                self._channel.settimeout(max(0.01, deadline - time.monotonic()))
                data = self._channel.recv(CHUNK)
                if not data:
                    errors: list[bytes] = []
                    _drain(self._channel.recv_stderr, errors)
                    raise CommandFailed(self._node, self._what, f"it ended: {_tail(b''.join(errors))}")
                answer += data
        except TimeoutError:
            self.close()
            raise WaitTimeout(f"{self._node}: {self._what}", limit, _tail(answer)) from None
        except OSError as e:
            self.close()
            raise NotReachable(self._node, self._what, str(e) or type(e).__name__) from e
        return answer

    def close(self) -> None:
        """End its input, which ends it."""
        self._channel.close()


def _feed(channel: paramiko.Channel, data: bytes) -> None:
    try:
        # paramiko copies what is left after each packet: a megabyte costs nothing, a hundred take minutes
        for start in range(0, len(data), FEED):
            channel.sendall(data[start : start + FEED])
        channel.shutdown_write()
    except OSError:
        pass  # the command ended without reading all of it; its exit status tells


def _drain(receive: Callable[[int], bytes], into: list[bytes], deadline: float | None = None) -> None:
    while data := receive(CHUNK):
        into.append(data)
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError


def _gather(receive: Callable[[int], bytes], into: list[bytes]) -> None:
    with suppress(TimeoutError):  # whoever reads the other stream meets it as well, and says so
        _drain(receive, into)


def _tail(data: bytes, lines: int = 3) -> str:
    return " | ".join(data.decode(errors="replace").strip().splitlines()[-lines:])
