"""The private daemon on this host: needs root, libvirt and QEMU."""

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from testbed.errors import LabError
from testbed.host import processes
from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories
from testbed.host.forward import PortTaken, find_forward, start_forward, stop_forward
from testbed.host.namespaces import LabNetwork, run_in
from testbed.waiting import NotYet, wait_until

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="a private libvirt daemon needs root"),
]

NETWORK = """<network><name>mesh</name><bridge name='tbmesh'/><ip address='10.77.0.1' netmask='255.255.255.0'>
<dhcp><range start='10.77.0.5' end='10.77.0.9'/></dhcp></ip></network>"""
# No disk: the firmware finds nothing to boot and idles.
MACHINE = """<domain type='qemu'><name>idle</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><interface type='network'><source network='mesh'/></interface></devices></domain>"""


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[list[PrivateDaemon]]:
    made = [PrivateDaemon(n, LabDirectories(n, tmp_path / n, tmp_path / f"run-{n}")) for n in ("one", "two")]
    yield made
    for daemon in made:
        daemon.stop()


@pytest.fixture
def daemon(daemons: list[PrivateDaemon]) -> PrivateDaemon:
    return daemons[0]


def traces(daemon: PrivateDaemon) -> list[str]:
    """Processes that name the lab's state folder anywhere: found without the code under test."""
    word, found = str(daemon.directories.state).encode(), []
    for pid in (p for p in Path("/proc").iterdir() if p.name.isdecimal() and int(p.name) != os.getpid()):
        try:
            for file in ("cmdline", "environ", "mountinfo"):
                if word in (pid / file).read_bytes():
                    found.append(f"{pid.name} {file}")
        except OSError:
            continue
    return found


def network_namespace(daemon: PrivateDaemon) -> str:
    return str(LabNetwork(daemon.directories).namespace().stat().st_ino)


def namespace_alive(name: str) -> bool:
    return (
        name
        in subprocess.run(["lsns", "-rnt", "net", "-o", "NS"], capture_output=True, text=True, check=True).stdout
    )


def test_libvirt_answers_from_outside_and_stop_leaves_nothing(daemon: PrivateDaemon) -> None:
    """It serves libvirt-python through its URI; after stop() no process, namespace, mount or folder is left."""
    daemon.start()
    namespace = network_namespace(daemon)
    with libvirt.open(daemon.uri) as connection:
        assert connection.listAllDomains() == []
        connection.networkCreateXML(NETWORK)
        connection.createXML(MACHINE)
    found = daemon.find()
    assert found is not None
    assert (len(found.machines), len(found.dnsmasq), found.others) == (1, 2, ())
    assert not Path("/sys/class/net/tbmesh").exists(), "the bridge is the lab's, not the host's"
    assert namespace_alive(namespace)
    daemon.stop()
    assert daemon.find() is None
    assert traces(daemon) == []
    assert not namespace_alive(namespace)
    assert str(daemon.directories.state) not in Path("/proc/self/mountinfo").read_text()
    assert not daemon.directories.libvirt.exists()
    assert not daemon.directories.runtime.exists()


def test_control_socket_path_is_short(daemon: PrivateDaemon) -> None:
    """unix(7): a socket's path has at most 107 bytes, however deep the state folder lies."""
    daemon.start()
    assert len(daemon.uri.partition("socket=")[2]) < 60


def test_second_start_changes_nothing(daemon: PrivateDaemon) -> None:
    assert daemon.start() == daemon.start()


def test_libvirtd_comes_back_under_running_machines(daemon: PrivateDaemon) -> None:
    """Both daemons killed: a start joins the namespaces that QEMU keeps, and libvirt finds the machine running."""
    before = daemon.start()
    with libvirt.open(daemon.uri) as connection:
        connection.networkCreateXML(NETWORK)
        connection.createXML(MACHINE)
    namespace = network_namespace(daemon)
    assert before.libvirtd
    assert before.virtlogd
    os.kill(before.libvirtd.pid, signal.SIGKILL)
    os.kill(before.virtlogd.pid, signal.SIGKILL)
    with pytest.raises(LabError, match="doesn't run"):
        wait_until("libvirtd gone", lambda: _still(daemon), limit=5, interval=0.02)
    after = daemon.start()
    assert network_namespace(daemon) == namespace
    assert after.machines
    with libvirt.open(daemon.uri) as connection:
        assert [d.name() for d in connection.listAllDomains() if d.isActive()] == ["idle"]


def _still(daemon: PrivateDaemon) -> None:
    raise NotYet(daemon.uri)


def test_definitions_survive_a_stop_for_the_night(daemon: PrivateDaemon) -> None:
    daemon.start()
    with libvirt.open(daemon.uri) as connection:
        connection.networkDefineXML(NETWORK)
        connection.defineXML(MACHINE)
    daemon.stop(keep_definitions=True)
    assert daemon.find() is None
    daemon.start()
    with libvirt.open(daemon.uri) as connection:
        assert [d.name() for d in connection.listAllDomains()] == ["idle"]
        assert [n.name() for n in connection.listAllNetworks()] == ["mesh"]


def test_two_labs_with_the_same_network_side_by_side(daemons: list[PrivateDaemon]) -> None:
    """The same bridge name and addresses twice: each lab has its own, and ending one leaves the other."""
    for daemon in daemons:
        daemon.start()
        with libvirt.open(daemon.uri) as connection:
            connection.networkCreateXML(NETWORK)
    one, two = daemons
    assert network_namespace(one) != network_namespace(two)
    one.stop()
    assert one.find() is None
    with libvirt.open(two.uri) as connection:
        assert connection.networkLookupByName("mesh").isActive()


def test_dial_reaches_only_what_is_inside(daemon: PrivateDaemon) -> None:
    """A listener in the lab's namespace takes a dialed connection; the host's loopback does not know it."""
    daemon.start()
    network = LabNetwork(daemon.directories)
    with run_in(network.namespace(), lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        with network.dial("127.0.0.1", port, 2) as connection:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"hello")
                assert connection.recv(5) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=2)


def test_dial_into_a_lab_that_is_down_says_so(daemon: PrivateDaemon) -> None:
    with pytest.raises(ConnectionError, match="lab one has no namespace on this host"):
        LabNetwork(daemon.directories).dial("127.0.0.1", 1, 1)


def test_known_namespace_is_asked_anew_after_a_restart(daemon: PrivateDaemon) -> None:
    """A network object that outlives the lab's namespace finds the new one."""
    daemon.start()
    network = LabNetwork(daemon.directories)
    first = network.namespace()
    daemon.stop()
    daemon.start()
    assert network.namespace() != first
    with run_in(network.namespace(), lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        network.dial("127.0.0.1", listener.getsockname()[1], 2).close()


STARTER = """
import sys
from pathlib import Path
from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories
print("go", flush=True)
PrivateDaemon("one", LabDirectories("one", Path(sys.argv[1]), Path(sys.argv[2]))).start()
"""


@pytest.mark.parametrize("recover", [True, False], ids=["start-again", "stop"])
def test_killed_starter_leaves_nothing_out_of_sight(daemon: PrivateDaemon, recover: bool) -> None:
    """kill -9 of the starter at 20 moments: a second start works, and stop() leaves no trace."""
    moments = random.Random(7)
    for _ in range(20):
        arguments = [sys.executable, "-c", STARTER, daemon.directories.state, daemon.directories.runtime]
        starter = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        assert starter.stdout
        starter.stdout.readline()
        try:
            starter.wait(moments.uniform(0, 0.15))
        except subprocess.TimeoutExpired:
            starter.kill()
        starter.wait()
        starter.stdout.close()
        if recover:
            daemon.start()
            libvirt.open(daemon.uri).close()
        daemon.stop()
        assert traces(daemon) == []


def test_launcher_that_can_not_be_seen_yet_is_waited_for(daemon: PrivateDaemon) -> None:
    """Between fork and exec a launcher looks like its starter; it holds the gate until it has the lab's mark."""
    daemon.directories.create()
    with (daemon.directories.state / "launch.lock").open("ab") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="earlier launch"):
            daemon.stop(limit=0.2)
        with pytest.raises(TimeoutError, match="earlier launch"):
            daemon.start(limit=0.2)
        assert daemon.find() is None


def test_launcher_gives_the_gate_up_once_it_is_seen(daemon: PrivateDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its launcher goes on, a starter leaves no gate shut: stop() ends the launcher at once."""
    monkeypatch.setattr("testbed.host.daemon._VIRTLOGD", "sleep 600\n")
    causes: list[str] = []

    def start() -> None:
        with pytest.raises(LabError) as failed:
            daemon.start(60)
        causes.append(failed.value.action)

    starting = threading.Thread(target=start)
    starting.start()

    def seen() -> None:
        found = daemon.find()
        if not (found and found.starting and found.contained):
            raise NotYet(str(found))

    wait_until("launcher", seen, limit=5, interval=0.01)
    daemon.stop(limit=2, keep_definitions=True)
    starting.join()
    assert causes == ["start its libvirt daemon"]
    assert traces(daemon) == []


def test_daemon_that_can_not_start_is_one_error_and_leaves_nothing(
    daemon: PrivateDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher's last words are the cause."""
    monkeypatch.setattr("testbed.host.daemon._VIRTLOGD", "virtlogd --no-such-option\n")
    with pytest.raises(LabError, match=r"lab one: start its libvirt daemon: .*no-such-option"):
        daemon.start()
    assert traces(daemon) == []


def test_launcher_that_hangs_is_ended(daemon: PrivateDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.host.daemon._VIRTLOGD", "sleep 600\n")
    with pytest.raises(LabError, match=r"nothing within 0\.5 s"):
        daemon.start(limit=0.5)
    assert traces(daemon) == []


def test_running_labs_are_listed(daemon: PrivateDaemon) -> None:
    daemon.start()
    assert daemon.directories.state in processes.running_labs()


def test_forward_carries_both_ways_and_ends_with_the_lab(daemon: PrivateDaemon) -> None:
    """Half-closing the near end reaches the far end, whose answer still comes back; stop() ends the forwarder."""
    daemon.start()
    network = LabNetwork(daemon.directories)
    with run_in(network.namespace(), lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        inside = listener.getsockname()[1]
        port = start_forward(daemon.directories, "127.0.0.1", inside)
        assert start_forward(daemon.directories, "127.0.0.1", inside) == port, "the same again: kept"
        sent = b"x" * 3_000_000
        with socket.create_connection(("127.0.0.1", port), timeout=5) as near:
            listener.settimeout(5)
            far, _ = listener.accept()
            with far:
                far.settimeout(5)
                near.sendall(b"question")
                near.shutdown(socket.SHUT_WR)
                assert b"".join(iter(lambda: far.recv(100), b"")) == b"question"
                far.sendall(sent)
                far.shutdown(socket.SHUT_WR)
                assert b"".join(iter(lambda: near.recv(65536), b"")) == sent
    with socket.create_connection(("127.0.0.1", port), timeout=5) as near, pytest.raises(ConnectionResetError):
        near.recv(1)  # nobody listens inside any more
    found = daemon.find()
    assert found is not None
    assert [p.pid for p in found.others] == [find_forward(daemon.directories).pid]
    daemon.stop()
    assert find_forward(daemon.directories) is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_forward_listens_on_loopback_only_and_names_who_has_a_taken_port(daemon: PrivateDaemon) -> None:
    daemon.directories.create()
    port = start_forward(daemon.directories, "127.0.0.1", 9)
    listening = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True)
    assert [line.split()[3] for line in listening.stdout.splitlines()] == [f"127.0.0.1:{port}"]
    stop_forward(daemon.directories)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {taken}: .*: in use by .*\(pid {os.getpid()}\)"):
            start_forward(daemon.directories, "127.0.0.1", 9, port=taken)
    assert find_forward(daemon.directories) is None


def test_dial_command_relays_standard_input_and_output(
    daemon: PrivateDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SSH's ProxyCommand runs: end of input half-closes, end of the connection ends it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    lab = PrivateDaemon("dialed")
    try:
        lab.start()
        with run_in(LabNetwork("dialed").namespace(), lambda: socket.create_server(("127.0.0.1", 0))) as listener:
            listener.settimeout(10)
            command = [sys.executable, "-m", "testbed.host.dial", "dialed", "127.0.0.1"]
            port = str(listener.getsockname()[1])
            child = subprocess.Popen([*command, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            far, _ = listener.accept()
            far.settimeout(10)
            with far:
                assert child.stdin
                child.stdin.write(b"ping")
                child.stdin.close()
                assert b"".join(iter(lambda: far.recv(100), b"")) == b"ping"
                far.sendall(b"pong")
            assert child.stdout
            assert child.stdout.read() == b"pong"
            assert child.wait(5) == 0
            child.stdout.close()
        refused = subprocess.run([*command, port], capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert refused.stderr == f"lab dialed: dial 127.0.0.1:{port}: [Errno 111] Connection refused\n"
    finally:
        lab.stop()
