"""A lab on the system's libvirt daemon, which a daemon of the test's own plays: in its namespaces, at the usual socket.

From in there the lab's bridges are the host's own and nodes are dialed plainly, as for `qemu:///system` anywhere.
"""

import json
import subprocess

import libvirt
import pytest
from commands import COMMAND

from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories
from testbed.host.directories import testbed_home as home
from testbed.host.namespaces import command_in


@pytest.fixture
def system():
    daemon = PrivateDaemon("plays-system")
    found = daemon.start()
    try:
        yield found.contained[0].pid
    finally:
        daemon.stop()
        daemon.directories.remove()


def test_a_lab_comes_up_on_it_and_leaves_it_as_it_was(system, tmp_path):
    inventory = tmp_path / "lab.yaml"
    text = (home() / "inventories" / "two-nodes.yaml").read_text()
    inventory.write_text(text.replace("id: two-nodes", "id: on-system\nhosts: [{uri: 'qemu:///system'}]"))

    def run(*arguments):
        argv = command_in(system, [*COMMAND, arguments[0], "-i", str(inventory), *arguments[1:]])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, cwd=home(), check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        assert json.loads(run("up", "--json"))["verdict"] == "PASS"
        assert json.loads(run("status", "--json"))["healthy"]
        assert "nothing to do" in run("up")
        assert run("ssh", "left", "--", "hostname") == "left\n"
        assert run("down").startswith("on-system: removed")
    finally:
        run("down")
    connection = libvirt.open(PrivateDaemon("plays-system").uri)
    assert connection.listAllDomains() == []
    assert [n.name() for n in connection.listAllNetworks()] == []
    connection.close()
    assert not LabDirectories("on-system").state.exists()
