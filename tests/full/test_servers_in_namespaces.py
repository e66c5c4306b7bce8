"""Three servers of a cluster in network namespaces: real k3s with the settings that servers get, without its agent, and
real keepalived.  One is lost, and the API goes on; a second one, and nobody answers.

k3s is the newest in the mirror that TESTBED_MIRROR names.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from mirrored import mirrored_versions

sys.path.append(str(Path(__file__).parents[1] / "mesh"))
from harness_network import command, processes_in, remove_leftovers
from harness_servers import ADDRESS, INVENTORY, ROUTER, SERVERS, Servers

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.kubeconfig import Access
from testbed.deploy.k3s import k3s_files
from testbed.deploy.keepalived import CHECK
from testbed.errors import LabError
from testbed.host.namespaces import dial
from testbed.model.clusters import API_PORT
from testbed.waiting import NotYet, wait_until

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not os.environ.get("TESTBED_MIRROR"), reason="TESTBED_MIRROR names no mirror with k3s"),
    pytest.mark.skipif(shutil.which("keepalived") is None, reason="needs keepalived: run scripts/setup test"),
]

NODES = {n.name: n for n in INVENTORY.servers()}
OBJECT = "/api/v1/namespaces/default/configmaps/testbed"
MOVES_WITHIN = 60
"""Seconds until the API answers at its address, and takes a change, after the server that had it was lost."""


class K3sServers(Servers):
    def __init__(self, folder):
        super().__init__()
        self.data = folder
        version = mirrored_versions("k3s")[-1]
        self.program = folder / "k3s"
        shutil.copy(Path(os.environ["TESTBED_MIRROR"]) / "k3s" / version / "k3s", self.program)
        self.program.chmod(0o755)

    def tls(self, node):
        return self.data / node.name / "server/tls"

    def api(self, node):
        files = {f.path: f.content for f in k3s_files(INVENTORY, node, "a-token-of-the-tests", {}).files}
        config = yaml.safe_load(files["/etc/rancher/k3s/config.yaml"])
        token, own = self.data / "token", self.data / f"{node.name}.yaml"
        token.write_text(files[config["token-file"]])
        here = {
            "token-file": str(token),
            "data-dir": str(self.data / node.name),
            "write-kubeconfig": str(self.data / f"{node.name}.kubeconfig"),
            "disable-agent": True,
        }
        own.write_text(yaml.safe_dump(config | here))
        # as its unit does it: k3s ends when there is no majority for long
        again = 'while :; do "$@"; sleep 5; done'
        return ["sh", "-c", again, "-", str(self.program), "server", "--config", str(own)]

    def begin(self, server):
        """Start it, and wait until its own check finds its API ready."""
        self.start(NODES[server])

        def ready():
            done = subprocess.run([*self.enter(server), CHECK], capture_output=True, text=True, check=False)
            if done.returncode:
                raise NotYet(f"its check ends with {done.returncode}; its log:\n{self.log(server)[-2000:]}")

        wait_until(f"the API of {server} is ready", ready, limit=300, interval=1)

    def lose(self, server):
        """As when its machine has lost its power."""
        namespace = self.namespace(server)
        for card in ("eth0", "eth1"):
            command("ip", "-n", namespace, "link", "set", card, "down")
        for pid in processes_in(namespace):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for card in ("eth0", "eth1"):
            command("ip", "-n", namespace, "address", "flush", "dev", card)

    def reached(self):
        """The API at the address that moves, from the lab host's end of the network."""
        tls = self.tls(NODES["server-1"])
        texts = [(tls / n).read_text() for n in ("server-ca.crt", "client-admin.crt", "client-admin.key")]
        return KubeApi(Access(ADDRESS, API_PORT, *texts), partial(dial, Path(f"/run/netns/{self.bridge}")), limit=5)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    remove_leftovers()
    made = K3sServers(tmp_path_factory.mktemp("servers"))
    try:
        made.create()
        yield made
    finally:
        made.destroy()


def wait_for_change(servers, value, limit):
    """Until the API takes it at the address, and has it; in how many seconds."""
    began = time.monotonic()
    metadata = {"name": "testbed", "namespace": "default"}
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}}

    def taken():
        api = servers.reached()
        try:
            api.apply(OBJECT, manifest)
            assert api.get(OBJECT)["data"] == {"value": value}
        except LabError as e:
            raise NotYet(str(e)) from None
        finally:
            api.close()

    wait_until(f"the API at {ADDRESS} takes a change", taken, limit=limit, interval=0.5)
    return round(time.monotonic() - began, 1)


def test_servers_join_in_turn_and_the_first_one_has_both_addresses(servers):
    took = {}
    for server in SERVERS:
        began = time.monotonic()
        servers.begin(server)
        took[server] = round(time.monotonic() - began, 1)
    sys.stdout.write(f"seconds until each was ready: {took}\n")
    assert servers.wait_for_settled_holder(ADDRESS) == "server-1"
    assert servers.wait_for_settled_holder(ROUTER) == "server-1"
    wait_for_change(servers, "all", 30)


def test_the_api_answers_at_its_address_after_the_server_that_had_it_is_lost(servers):
    servers.lose("server-1")
    took = wait_for_change(servers, "two", MOVES_WITHIN)
    sys.stdout.write(f"the API took a change {took} s after server-1 was lost\n")
    left = {"server-2", "server-3"}
    servers.wait_for_holder(left)
    servers.wait_for_holder(left, ROUTER)


def test_without_a_majority_nobody_has_the_address_and_a_server_that_is_back_makes_one(servers):
    servers.lose("server-2")
    servers.wait_for_holder({"server-3"}, ROUTER)  # packets need no API
    # at first it is nowhere in any case, and then may be on the last one for a while
    servers.wait_for_nobody(lasts=20)
    for server in ("server-1", "server-2"):
        servers.connect(NODES[server])
        servers.begin(server)
    wait_for_change(servers, "again", MOVES_WITHIN)
    assert servers.holders(ROUTER) == {"server-3"}, "it stays where it is"
