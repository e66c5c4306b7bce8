"""Nodes of the cluster: k3s on them, and the API that then answers."""

from __future__ import annotations

import threading
from dataclasses import replace

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.kubeconfig import Access, read_access
from testbed.backends.istio.objects import LabObjects, node_state
from testbed.deploy import DeployHost, run_deploy
from testbed.deploy.k3s import API_PORT
from testbed.errors import LabError
from testbed.host.directories import testbed_home
from testbed.lab.lab import Lab
from testbed.model.clusters import api_address
from testbed.model.inventory import Node
from testbed.pki.token import join_token
from testbed.plan import ObservedLab
from testbed.waiting import NotYet, wait_until
from testbed.workflows.cluster import CONTROL_PLANE, PODS, node_digest, node_files
from testbed.workflows.nodes import ssh_config_file
from testbed.workflows.registries import registries_access

NODE_LIMIT = 900.0
"""Seconds for a node to be Ready; an emulated one spends a minute on each archive of images before."""
DEPLOY_LIMIT = 180.0
KUBECONFIG = "/etc/rancher/k3s/k3s.yaml"
APPLIED = "/etc/testbed/cluster.applied"
"""Where a node keeps the content hash of what the cluster has on it, once it was Ready."""

_SAID = 'systemctl is-active "$1"; journalctl -u "$1" -n 1 -o cat --no-pager'


def join(lab: Lab, name: str, cancel: threading.Event) -> None:
    """Make the machine a node of the cluster and wait until the API says that it is Ready."""
    inventory = lab.inventory
    node = next(n for n in inventory.nodes if n.name == name)
    registries = registries_access(inventory, lab.file)
    wanted = node_files(inventory, node, join_token(lab.directories.pki / "join-token"), registries)
    deploy_units(lab, {name: [wanted.as_data()]})
    connection = lab.connection(name)

    def ready() -> None:
        said = connection.run(["sh", "-c", _SAID, "-", wanted.unit], check=False).stdout.decode(errors="replace")
        state, _, journal = said.strip().partition("\n")
        if state == "failed":
            raise LabError(name, f"start {wanted.unit}", journal or state, f"testbed ssh {name} journalctl -u k3s*")
        try:
            api = api_of(lab)
        except LabError as e:
            raise NotYet(
                f"{wanted.unit} is {state}, no API yet ({e.cause}); its journal ends with: {journal}"
            ) from None
        try:
            health = node_state(api, name)
        finally:
            api.close()
        if not health.ready:
            raise NotYet(f"{health.seen}; {wanted.unit} is {state}, its journal ends with: {journal}")

    wait_until(
        f"{name} is Ready in the cluster", ready, limit=NODE_LIMIT, interval=3, cancel=cancel,
        next_step=f"see: testbed ssh {name} journalctl -u {wanted.unit}",
    )  # fmt: skip
    # for root alone: secrets of registries are part of the hash
    note = 'umask 077; printf "%s\\n" "$1" >"$2.new" && mv "$2.new" "$2"'
    connection.run(["sh", "-c", note, "-", node_digest(inventory, node, registries), APPLIED])


def deploy_units(lab: Lab, units: dict[str, list[dict[str, object]]]) -> None:
    """Lay units and their files on nodes, by a pyinfra deploy."""
    hosts = [DeployHost(node, {"units": found}) for node, found in units.items()]
    deploy = testbed_home() / "playbooks" / "deploys" / "unit.py"
    run_deploy(deploy, hosts, ssh_config=ssh_config_file(lab), limit=DEPLOY_LIMIT).require()


def access_of(lab: Lab) -> Access:
    """The cluster's API and the administrator's credentials, as the first server has them.  Kept nowhere."""
    server = lab.inventory.servers()[0].name
    found = lab.connection(server).run(["cat", KUBECONFIG], check=False)
    if found.status != 0:
        raise LabError(server, "read the cluster's kubeconfig", "there is none yet", "run: testbed up")
    here = read_access(found.stdout.decode(), f"{server}:{KUBECONFIG}")
    return replace(here, host=api_address(lab.inventory), port=API_PORT)


def api_of(lab: Lab) -> KubeApi:
    """A connection to the cluster's API, to be closed by the caller."""
    return KubeApi(access_of(lab), lab.network.dial)


def with_cluster(lab: Lab, observed: ObservedLab) -> ObservedLab:
    """``observed``, and what nodes and API tell of the cluster; a node that doesn't answer has nothing."""
    machines = dict(observed.machines)
    for node in (*lab.inventory.servers(), *lab.inventory.agents()):
        seen = machines.get(node.name)
        if seen is not None and seen.answers:
            machines[node.name] = replace(seen, cluster=_has(lab, node))
    observed = replace(observed, machines=machines)
    first = machines.get(lab.inventory.servers()[0].name)
    if first is None or not first.cluster:
        return observed
    try:
        api = api_of(lab)
        try:
            digests = LabObjects(api, lab.id).digests()
        finally:
            api.close()
    except LabError:
        return observed
    return replace(observed, control_plane=digests.get(CONTROL_PLANE), pods=digests.get(PODS))


def _has(lab: Lab, node: Node) -> str | None:
    unit = "k3s.service" if node.cluster == "server" else "k3s-agent.service"
    look = f'systemctl is-active --quiet "$1" && cat {APPLIED}'
    said = lab.connection(node.name).run(["sh", "-c", look, "-", unit], check=False)
    return said.stdout.decode().strip() or None
