"""Nodes of the cluster: k3s on them, and the API that then answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from testbed.artifacts import releases_of
from testbed.backends.istio.api import ApiRefused
from testbed.backends.istio.objects import LabObjects, node_state
from testbed.backends.istio.reaching import api_of
from testbed.deploy import DeployHost, run_deploy
from testbed.deploy.journal import LINES, telling_lines
from testbed.deploy.keepalived import CHECK
from testbed.deploy.keepalived import UNIT as KEEPALIVED
from testbed.errors import LabError, MeshError
from testbed.guests import Completed, NodeConnection
from testbed.host.directories import testbed_home
from testbed.lab.lab import Lab
from testbed.model.clusters import API_PORT, api_address
from testbed.model.inventory import Node
from testbed.pki.token import join_token
from testbed.plan import ObservedLab
from testbed.waiting import NotYet, Seen, wait_until
from testbed.workflows.bringing import has_been_brought, newer
from testbed.workflows.cluster import CONTROL_PLANE, PODS, ClusterSecrets, node_digest, node_units
from testbed.workflows.nodes import ssh_config_file
from testbed.workflows.registries import registries_access

NODE_LIMIT = 900.0
"""Seconds for a node to be Ready; an emulated one takes one to three minutes."""
DEPLOY_LIMIT = 180.0
AVAILABLE_LIMIT = 600.0
"""Seconds for istiod, and for all pods together, to be available."""
RESTORED_LIMIT = 180.0
"""Seconds for a cluster to answer after a restore."""
APPLIED = "/etc/testbed/cluster.applied"
"""Where a node keeps the content hash of what the cluster has on it, and k3s's version, once it was Ready."""

WATCH_LIMIT = 120.0
"""Seconds for keepalived to run and for its check to pass on a node that is Ready."""
ETCD = "/var/lib/rancher/k3s/server/db/etcd"
"""Where a server of several has the cluster's state."""

_WATCHES = """
systemctl is-active --quiet "$1" || { echo "$1 is $(systemctl is-active "$1")"; exit 1; }
"$2" || { echo "its check ends with status $?"; exit 1; }
"""
_SAID = 'systemctl is-active "$1"; journalctl -u "$1" -n "$2" -o cat --no-pager'

SKEW = 2.0
"""Seconds that a joining node's clock may be off from this host's."""


def join(lab: Lab, name: str, cancel: threading.Event) -> None:
    """Make the machine a node of the cluster and wait until the API says that it is Ready.

    One of several servers is waited for until keepalived finds its API ready, too: it could have the address then.
    """
    if len(lab.inventory.servers()) > 1 and name == lab.inventory.servers()[0].name:
        _require_no_other_cluster(lab, name)
    set_clock(lab.connection(name))
    start_node(lab, name, cancel)


def start_node(lab: Lab, name: str, cancel: threading.Event) -> None:
    """Give the node its units, whatever it has of them, and wait until it is Ready with the inventory's k3s."""
    inventory = lab.inventory
    node = next(n for n in inventory.nodes if n.name == name)
    registries = registries_access(inventory, lab.file)
    pki = lab.directories.pki
    secrets = ClusterSecrets(join_token(pki / "join-token"), join_token(pki / "address-secret"))
    units = node_units(inventory, node, secrets, registries, lab.began_with)
    connection = lab.connection(name)
    deploy_units(lab, {name: [unit.as_data() for unit in units]})
    unit, version = units[0].unit, releases_of(inventory).k3s

    def watched() -> None:
        said = _asked(connection, ["sh", "-c", _WATCHES, "-", KEEPALIVED, CHECK])
        if said.status != 0:
            raise NotYet(said.stdout.decode(errors="replace").strip())

    wait_until(
        f"{name} is Ready in the cluster",
        lambda: require_ready(lab, name, unit, version),
        limit=NODE_LIMIT,
        interval=3,
        cancel=cancel,
        next_step=f"see: testbed ssh {name} journalctl -u {unit}",
    )
    if len(units) > 1:
        wait_until(
            f"keepalived on {name} finds its API ready", watched, limit=WATCH_LIMIT, interval=2, cancel=cancel,
            next_step=f"see: testbed ssh {name} journalctl -u {KEEPALIVED}",
        )  # fmt: skip
    # for root alone: secrets of registries are part of the hash
    note = 'umask 077; printf "%s\\n" "$1" "$2" >"$3.new" && mv "$3.new" "$3"'
    digest = node_digest(inventory, node, registries, lab.began_with)
    connection.run(["sh", "-c", note, "-", digest, version, APPLIED])


def require_ready(lab: Lab, node: str, unit: str, version: str) -> None:
    """Raise :class:`NotYet`, with what unit, API and journal say, unless the cluster has the node as Ready with a
    kubelet of that version.

    Raises :class:`LabError` when the unit has failed for good.
    """
    said = _asked(lab.connection(node), ["sh", "-c", _SAID, "-", unit, str(LINES)])
    state, *lines = said.stdout.decode(errors="replace").strip().splitlines() or [""]
    journal = telling_lines(lines)
    if state == "failed":
        raise LabError(node, f"start {unit}", journal or state, f"see: testbed ssh {node} journalctl -u {unit}")
    try:
        api = api_of(lab)
    except LabError as e:
        raise NotYet(f"{unit} is {state}, no API yet ({e.cause}); its journal: {journal}") from None
    with closing(api):
        health = node_state(api, node, version)
    if not health.ready:
        raise NotYet(f"{health.seen}; {unit} is {state}, its journal: {journal}")


def _asked(connection: NodeConnection, argv: list[str]) -> Completed:
    """What a command says inside a wait: a node that has its hands full and does not answer may do so later."""
    try:
        return connection.run(argv, check=False)
    except LabError as e:
        raise NotYet(str(e)) from None


def await_api(
    name: str,
    probe: Callable[[], Seen],
    cancel: threading.Event,
    *,
    limit: float = AVAILABLE_LIMIT,
    next_step: str = "see: testbed status",
) -> Seen:
    """Wait until ``probe`` passes, whatever the API and machines have their hands full with meanwhile.

    Returns what it returned.
    """

    def look() -> Seen:
        try:
            return probe()
        except ApiRefused as e:
            if e.code < 500:
                raise
            raise NotYet(str(e)) from None
        except (LabError, MeshError) as e:
            raise NotYet(str(e)) from None

    return wait_until(name, look, limit=limit, interval=2, cancel=cancel, next_step=next_step)


def await_cluster(lab: Lab, cancel: threading.Event) -> None:
    """Wait until the API of a lab that was restored answers and has every node as Ready.

    Its connections were closed, those between servers among them: etcd elects, kubelets and controllers connect.
    """

    def ready() -> None:
        try:
            with closing(api_of(lab)) as api:
                for node in (*lab.inventory.servers(), *lab.inventory.agents()):
                    health = node_state(api, node.name)
                    if not health.ready:
                        raise NotYet(f"{node.name}: {health.seen}")
        except LabError as e:
            raise NotYet(str(e)) from None

    wait_until(
        "the restored cluster answers, all nodes Ready", ready, limit=RESTORED_LIMIT, interval=1, cancel=cancel,
        next_step="run: testbed up --cold",
    )  # fmt: skip


def set_clock(connection: NodeConnection) -> float:
    """Set the node's clock when it is off by more than :data:`SKEW`; by how many seconds it was.

    A node whose clock is behind finds the cluster's certificates not valid yet and asks for ever (nothing else sets
    clocks in a lab).
    """
    before = time.time()
    said = connection.run(["date", "+%s.%N"]).stdout
    after = time.time()
    off = float(said) - (before + after) / 2
    if abs(off) <= SKEW + (after - before) / 2:
        return 0.0
    connection.run(["date", "-s", f"@{time.time():.3f}"])
    return off


def _require_no_other_cluster(lab: Lab, first: str) -> None:
    """The first server begins a cluster: on a new machine, while the others go on with theirs, a second one."""
    if lab.connection(first).run(["test", "-d", ETCD], check=False).status == 0:
        return
    address = api_address(lab.inventory)
    try:
        lab.network.dial(address, API_PORT, 5).close()
    except OSError:
        return
    cause = f"the other servers have one already: its API answers at {address}"
    raise LabError(first, "begin the cluster", cause, "make the lab anew: testbed down, then testbed up")


def deploy_units(lab: Lab, units: dict[str, list[dict[str, object]]]) -> None:
    """Lay units and their files on nodes, by a pyinfra deploy."""
    hosts = [DeployHost(node, {"units": found}) for node, found in units.items()]
    deploy = testbed_home() / "playbooks" / "deploys" / "unit.py"
    run_deploy(deploy, hosts, ssh_config=ssh_config_file(lab), limit=DEPLOY_LIMIT).require()


def with_cluster(lab: Lab, observed: ObservedLab) -> ObservedLab:
    """``observed``, and what nodes and API tell of the cluster; a node that doesn't answer has nothing."""
    machines = dict(observed.machines)
    if newer(lab.inventory, lab.began_with):
        for name, machine in machines.items():
            if machine.answers:
                machines[name] = replace(machine, brought=has_been_brought(lab.connection(name)))
    for node in (*lab.inventory.servers(), *lab.inventory.agents()):
        seen = machines.get(node.name)
        if seen is not None and seen.answers:
            digest, version = _has(lab, node)
            machines[node.name] = replace(seen, cluster=digest, k3s=version)
    observed = replace(observed, machines=machines)
    if not any(seen.cluster for s in lab.inventory.servers() if (seen := machines.get(s.name)) is not None):
        return observed
    try:
        api = api_of(lab)
        try:
            objects = LabObjects(api, lab.id)
            digests, revisions = objects.digests(), objects.revisions()
        finally:
            api.close()
    except LabError:
        return observed
    return replace(observed, control_plane=digests.get(CONTROL_PLANE), pods=digests.get(PODS), revisions=revisions)


def _has(lab: Lab, node: Node) -> tuple[str | None, str]:
    """The content hash and k3s's version that it was Ready with last; nothing while a unit of it does not run."""
    units = ["k3s.service" if node.cluster == "server" else "k3s-agent.service"]
    if node.cluster == "server" and len(lab.inventory.servers()) > 1:
        units.append(KEEPALIVED)
    # an agent tells systemd that it has started a minute after the API has it as Ready
    state = '$(systemctl show --property SubState --value "$unit")'
    look = f"for unit; do case {state} in running|start|start-post) ;; *) exit 1 ;; esac; done; cat {APPLIED}"
    said = lab.connection(node.name).run(["sh", "-c", look, "-", *units], check=False)
    digest, version = [*said.stdout.decode().split(), "", ""][:2]
    return digest or None, version
