"""A libvirt daemon of the lab's own, in a network namespace and a mount namespace of its own.

libvirtd and virtlogd get private folders bound over the system's, and a private ``/run``: they see neither the
host's libvirt nor its D-Bus (so no firewalld zone and no machined scope of the host's is touched), and bridges,
dnsmasq and firewall rules live in the lab's network namespace.  Everything ends with the lab.

Nothing is written down about what runs.  The tmpfs on the private ``/run`` carries the lab's mark as its mount
source, so every process in there, QEMU and dnsmasq included, can be told from ``/proc`` (see
:mod:`testbed.host.processes`), whoever was killed when, and the control socket is reached through
``/proc/PID/root``: it has a short path and no file on the host that could be lost or left behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from testbed.errors import HostNotReady, LabError
from testbed.host import processes, reaper
from testbed.host.directories import LabDirectories, cache_root
from testbed.host.processes import Process
from testbed.waiting import NotYet, wait_until

_SOCKET = "run/libvirt/libvirt-sock"
_PROGRAMS = ("libvirtd", "virtlogd", "unshare", "nsenter", "mount", "flock", "ip", "sh")

# $1 the mark, $2 the lab's libvirt folder, $3 the shared cache, $4 the gate (see PrivateDaemon._gate).
_SEEN = 'flock -u "$4"\n'
# The marked mount comes first: from then on
# whatever runs in here can be found.  `slave` lets the host unmount its disks; nothing goes the other way.
_ENTER = """
mount -t tmpfs -o mode=755,nosuid,nodev "$1" /run
mkdir /run/libvirt
mount --bind "$2/etc" /etc/libvirt
mount --bind "$2/lib" /var/lib/libvirt
mount --bind "$2/log" /var/log/libvirt
mount --bind "$3" /var/cache/libvirt
ip link set lo up
"""
# With --daemon both return when their sockets answer, and with a status other than 0 if they can't.  No `exec`: as
# long as the shell is there, a start is under way.
_VIRTLOGD = "virtlogd --daemon\n"
_LIBVIRTD = "libvirtd --daemon\n"

_LIBVIRTD_CONF = """\
unix_sock_rw_perms = "0700"
unix_sock_ro_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{host_uuid}"
max_client_requests = 64
max_workers = 64
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
# The nodes' disks belong to root and stay so; what keeps a node in is the emulator's own sandbox, not labels.
# The mount namespace has to stay the lab's: `namespaces = []`.  Mixed cgroup mounts stop libvirt: none is used.
_QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
"""


@dataclass(frozen=True)
class DaemonProcesses:
    """What runs of a lab on this host."""

    libvirtd: Process | None
    virtlogd: Process | None
    machines: tuple[Process, ...]
    """QEMU processes."""
    dnsmasq: tuple[Process, ...]
    starting: tuple[Process, ...]
    """A launcher under way, perhaps of a command that has been killed."""
    reapers: tuple[Process, ...]
    """Above the daemons and what they started; see :mod:`testbed.host.reaper`."""
    others: tuple[Process, ...]
    """The forwarder, and whatever else carries the lab's mark."""

    @property
    def all(self) -> tuple[Process, ...]:
        """Every process of the lab."""
        daemons = tuple(p for p in (self.libvirtd, self.virtlogd) if p)
        return (*self.starting, *daemons, *self.machines, *self.dnsmasq, *self.reapers, *self.others)

    @property
    def contained(self) -> tuple[Process, ...]:
        """Those in the lab's namespaces: each is a way in."""
        return tuple(p for p in self.all if p.contained)


class PrivateDaemon:
    """The private libvirtd and virtlogd of one lab.  Making the object starts nothing."""

    def __init__(self, lab_id: str, directories: LabDirectories | None = None) -> None:
        self.lab_id = lab_id
        self.directories = directories or LabDirectories(lab_id)

    def find(self) -> DaemonProcesses | None:
        """What runs of this lab, or None.  Needs no file: right after a crash at any point."""
        return _sort(processes.of_lab(self.directories.state))

    @property
    def uri(self) -> str:
        """The libvirt URI that reaches the daemon from outside its namespaces (for root).

        It names the daemon's pid: ask again after a restart.  Raises LabError if the daemon doesn't run.
        """
        found = self.find()
        if found is None or found.libvirtd is None:
            raise LabError(f"lab {self.lab_id}", "connect", "its libvirt daemon doesn't run", "run `testbed up`")
        return f"qemu:///system?socket={_socket_of(found.libvirtd)}"

    def start(self, limit: float = 30) -> DaemonProcesses:
        """Start the daemons, or those that are missing, in the namespaces that are there; a no-op if both run.

        ``limit`` is in seconds.  The caller holds the lab's lock.  Raises HostNotReady without root or programs,
        LabError if a daemon doesn't come up, with its last words.
        """
        self._check_host()
        return wait_until(
            f"lab {self.lab_id}: libvirt daemon",
            lambda: self._converge(limit),
            limit=limit,
            interval=0.02,
            next_step=f"see {self.directories.libvirt}/log; then `testbed down` and try again",
        )

    def _converge(self, limit: float) -> DaemonProcesses:
        with self._gate(limit) as gate:
            return self._advance(gate, limit)

    def _advance(self, gate: IO[bytes], limit: float) -> DaemonProcesses:
        found = self.find()
        if found and found.starting:  # of a command that was killed: it goes on, and ends by itself
            raise NotYet("an earlier start is under way: " + ", ".join(map(str, found.starting)))
        if found is None or found.libvirtd is None or found.virtlogd is None:
            self._launch(found, gate, limit)
            raise NotYet("started, not seen yet")
        if not _answers(found.libvirtd):
            raise NotYet(f"{found.libvirtd} does not take connections")
        return found

    def stop(self, limit: float = 10, *, keep_definitions: bool = False) -> None:
        """End every process of the lab, machines included, and with the last one its namespaces and mounts.

        Deletes the daemon's folders, unless ``keep_definitions``: then a later :meth:`start` knows the same
        domains and networks.  Safe to repeat.  Raises WaitTimeout naming what is left after ``limit`` seconds.
        """
        with self._gate(limit):
            self._end_all(limit)
        if not keep_definitions:
            (self.directories.state / "launch.lock").unlink(missing_ok=True)
            shutil.rmtree(self.directories.libvirt, ignore_errors=True)
            shutil.rmtree(self.directories.runtime, ignore_errors=True)
            with suppress(OSError):  # volumes and keys are still there
                self.directories.state.rmdir()

    def _check_host(self) -> None:
        if os.geteuid() != 0:
            raise HostNotReady(
                f"lab {self.lab_id}",
                "start a libvirt daemon of its own",
                "only root may make namespaces for it",
                "run as root, or use the system's daemon: `uri: qemu:///system` in the inventory's `hosts`",
            )
        missing = [p for p in _PROGRAMS if shutil.which(p, path=_PATH) is None]
        folders = ("/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
        missing += [f for f in folders if not Path(f).is_dir()]
        if missing:
            raise HostNotReady(
                f"lab {self.lab_id}",
                "start a libvirt daemon of its own",
                f"the host has no {', '.join(missing)}",
                "run `testbed doctor --fix`",
            )

    def _launch(self, found: DaemonProcesses | None, gate: IO[bytes], limit: float) -> None:
        cache = cache_root() / "libvirt"
        # Shared between labs, as the first probe of QEMU's abilities takes seconds.  libvirt writes its files
        # by rename, and two labs write the same content; a file that it can't read it makes again.
        cache.mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        state = self.directories.state
        script = ("" if found and found.virtlogd else _VIRTLOGD) + ("" if found and found.libvirtd else _LIBVIRTD)
        way_in = found.contained[0] if found and found.contained else None
        words = self.directories.libvirt / "log" / "start.log"
        with ExitStack() as open_files:
            namespaces = [
                open_files.enter_context(_open_namespace(way_in, kind)) for kind in ("net", "mnt") if way_in
            ]
            if namespaces:
                net, mount = (f"/proc/self/fd/{file.fileno()}" for file in namespaces)
                enter = ["nsenter", f"--net={net}", f"--mount={mount}", "--"]
            else:
                enter = ["unshare", "--net", "--mount", "--propagation", "slave", "--"]
                script = _ENTER + script
            inherited = [file.fileno() for file in (gate, *namespaces)]
            values = [processes.mark(state), str(self.directories.libvirt), str(cache), str(gate.fileno())]
            # Its output goes to a file, not to us: if we are killed, it ends undisturbed.
            output = open_files.enter_context(words.open("wb"))
            command = json.dumps(["sh", "-euc", _SEEN + script, _LAUNCHER, *values])
            marks = {processes.ENVIRONMENT: str(state), reaper.COMMAND: command}
            launcher = subprocess.Popen(
                [*enter, sys.executable, "-ISE", reaper.__file__, _REAPER],
                env={"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **marks},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                pass_fds=inherited,
                start_new_session=True,
            )
        try:
            status = launcher.wait(limit)
        except BaseException as e:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
            if way_in is None:  # else machines run in there
                self._end_all(limit=10)
            if not isinstance(e, subprocess.TimeoutExpired):
                raise  # Ctrl-C
            status = -1
        if status != 0:
            said = words.read_text(errors="replace").split("\n")
            cause = next((line for line in said if "error" in line), said[0]) or f"nothing within {limit:g} s"
            next_step = f"see {words.parent}; `testbed doctor` checks the host"
            raise LabError(f"lab {self.lab_id}", "start its libvirt daemon", cause, next_step)

    def _write_configuration(self) -> None:
        self.directories.create()
        for folder in ("etc", "lib", "lib/dnsmasq", "log"):  # libvirt writes to the third without making it
            # QEMU's files are root's, but dnsmasq gives root up: below the lab's closed folder these are open
            (self.directories.libvirt / folder).mkdir(parents=True, exist_ok=True)
            (self.directories.libvirt / folder).chmod(0o755)
        etc = self.directories.libvirt / "etc"
        (etc / "libvirtd.conf").write_text(_LIBVIRTD_CONF.format(host_uuid=uuid.uuid4()))
        (etc / "qemu.conf").write_text(_QEMU_CONF)

    @contextmanager
    def _gate(self, limit: float) -> Iterator[IO[bytes]]:
        """A lock that a launcher inherits from its starter, and gives up once ``/proc`` shows it as the lab's.

        Between fork and exec it can't be told from its starter: if that is killed just then, whoever comes next
        waits here for the launcher to be visible.
        """
        self.directories.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.directories.state / "launch.lock").open("ab") as file:

            def take() -> None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise NotYet("another command is starting or stopping it") from None

            wait_until(f"lab {self.lab_id}: earlier launch", take, limit=limit, interval=0.01)
            yield file

    def _end_all(self, limit: float) -> None:
        polite = min(limit / 2, _POLITE)
        name = f"lab {self.lab_id}: end of its processes"
        asked: set[int] = set()
        try:
            wait_until(name, lambda: self._end(signal.SIGTERM, asked), limit=polite, interval=0.02)
        except TimeoutError:
            wait_until(name, lambda: self._end(signal.SIGKILL, set()), limit=limit - polite, interval=0.05)

    def _end(self, number: signal.Signals, asked: set[int]) -> None:
        """Send the signal to whoever has not had it, those included that were forked since the last look."""
        remaining = processes.of_lab(self.directories.state)
        for process in remaining:
            if process.pid not in asked:
                asked.add(process.pid)
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)
        if remaining:
            raise NotYet("still there: " + ", ".join(map(str, remaining)))


_POLITE = 3.0  # seconds; QEMU and the daemons take milliseconds to end
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A name each among the arguments: the path of the program is that of the installation that started it.
_LAUNCHER = "testbed-daemon"
_REAPER = "testbed-reaper"


def _sort(found: list[Process]) -> DaemonProcesses | None:
    if not found:
        return None
    above = tuple(p for p in found if _REAPER in p.arguments)
    pids = {p.pid for p in found} - {p.pid for p in above}

    def named(*prefixes: str) -> tuple[Process, ...]:
        return tuple(p for p in found if p.name.startswith(prefixes))

    # A daemon's child between fork and exec bears its name still; the daemon's own parent is what reaps it.
    roots = [p for p in found if p.parent not in pids]
    sorted_ones = DaemonProcesses(
        libvirtd=next((p for p in roots if p.name == "libvirtd"), None),
        virtlogd=next((p for p in roots if p.name == "virtlogd"), None),
        machines=named("qemu-"),
        dnsmasq=named("dnsmasq"),
        starting=tuple(p for p in found if _LAUNCHER in p.arguments),
        reapers=above,
        others=(),
    )
    known = {p.pid for p in sorted_ones.all}
    return replace(sorted_ones, others=tuple(p for p in found if p.pid not in known))


def _open_namespace(process: Process, kind: str) -> IO[bytes]:
    try:
        return Path(f"/proc/{process.pid}/ns/{kind}").open("rb")
    except FileNotFoundError:
        raise NotYet(f"{process} is ending") from None


def _socket_of(libvirtd: Process) -> str:
    return f"/proc/{libvirtd.pid}/root/{_SOCKET}"


def _answers(libvirtd: Process) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(_socket_of(libvirtd))
        except OSError:
            return False
    return True
