"""What a node of the cluster has on it: k3s's configuration, its unit, links to the binary and the images.

Pure: inventory in, files out.  Keys of ``config.yaml`` are the flags of ``k3s server`` and ``k3s agent``.
"""

from __future__ import annotations

import json
from types import MappingProxyType

import yaml

from testbed.deploy.files import NodeFile, UnitFiles
from testbed.deploy.registries import REGISTRIES, RegistriesAccess, registry_files
from testbed.model.clusters import API_PORT, SERVER_ROLE, api_address
from testbed.model.inventory import Inventory, Node
from testbed.model.reading import topology_of
from testbed.model.topology import Locality, ProxyKind

SHARED = "/opt/testbed"
"""Where the shared disk has the releases."""

BROUGHT = "/var/lib/testbed-releases"
"""Where a node keeps releases that were brought to it later, each in ``PRODUCT/VERSION``."""

_CONFIG = "/etc/rancher/k3s/config.yaml"
_TOKEN = "/etc/rancher/k3s/token"  # noqa: S105 a path
_AUDIT_POLICY = "/etc/rancher/k3s/audit.yaml"
_AUDIT_LOG = "/var/log/kubernetes/audit.log"
_PACKAGED = ("traefik", "servicelb", "metrics-server", "local-storage")
_MESH_DEVICE = "eth1"
_COMPACTION = "30m"
"""Kubernetes' own is 5 min.  With SQLite k3s ends when one takes more than 5 s, as on a busy emulated server (kine:
"Transaction commit failed")."""
_LEADERS = ("leader-elect-lease-duration=40s", "leader-elect-renew-deadline=30s", "leader-elect-retry-period=5s")
"""Kubernetes' own are 15, 10 and 2 s.  k3s ends when one of its controllers could not renew in time, as while a
second server joins an emulated first one: the two are etcd's majority then."""
ETCD_ANSWERS = 10
"""Seconds that the API of one of several servers waits for etcd before it says that it is not ready.

Kubernetes' own are 2.  Members of etcd on busy emulated servers agree later than that: the API counted as not
ready on all of them in turn, and its address went to and fro.
"""
_STATE = "/var/lib/rancher/k3s"
_STORE = f"{_STATE}/agent/containerd"
DATA = f"{_STATE}/data"
"""Where k3s finds what it has unpacked."""
OWN_DATA = f"{_STATE}/data-own"
"""Where it unpacks itself on the node, beside links to what the node began with."""

FILL_OWN_DATA = """\
if [ ! -d "$own" ]; then
  # what runs finds itself at the same paths; what comes unpacks itself beside it
  rm -rf "$own.new"
  mkdir -p "$own.new"
  for entry in "$data"/*; do
    [ -e "$entry" ] || continue
    case ${entry##*/} in
      cni|current|previous) cp -a "$entry" "$own.new/" ;;
      *) ln -s "$(readlink -f "$entry")" "$own.new/${entry##*/}" ;;
    esac
  done
  mv "$own.new" "$own"
fi
"""
"""Makes the folder ``$own`` with what there is in ``$data``, which may be on the shared disk."""

_OWN_DATA_FILE = "/etc/testbed/k3s-data.sh"
_BEFORE_AMBIENT = f"""\
# Istio's CNI agent puts its plugin beside k3s's own
set -e
data={SHARED}/k3s/data own={OWN_DATA}
{FILL_OWN_DATA}"""


def k3s_files(
    inventory: Inventory,
    node: Node,
    token: str,
    registries: RegistriesAccess = MappingProxyType({}),
    brought: str = "",
) -> UnitFiles:
    """Everything for ``node``, which must be a server or an agent; ``token`` is the lab's secret for joining.

    ``registries`` has what the inventory's registries want to see.  k3s and all images lie unpacked on the shared
    disk (:mod:`testbed.images.unpacked`); ``brought`` is the version of another k3s, which was brought later.
    """
    unit = "k3s.service" if node.cluster == "server" else "k3s-agent.service"
    files = [
        NodeFile(_TOKEN, token + "\n", 0o600),
        NodeFile(_CONFIG, _yaml(_config(inventory, node)), 0o600),
    ]
    files += registry_files(inventory.cluster.registries, registries)
    if node.cluster == "server" and inventory.cluster.audit_log:
        files.append(NodeFile(_AUDIT_POLICY, _yaml(_AUDIT), 0o600))
    ambient = inventory.mesh.is_ambient
    if ambient:
        files.append(NodeFile(_OWN_DATA_FILE, _BEFORE_AMBIENT))
    files.append(NodeFile(f"/etc/systemd/system/{unit}", _unit(inventory, node)))
    links = {"/usr/local/bin/k3s": f"{SHARED}/k3s/k3s", DATA: OWN_DATA if ambient else f"{SHARED}/k3s/data"}
    if brought:
        links = {"/usr/local/bin/k3s": f"{BROUGHT}/k3s/{brought}/k3s", DATA: OWN_DATA}
    return UnitFiles(unit, tuple(files), links, () if inventory.cluster.registries else (REGISTRIES,))


def _config(inventory: Inventory, node: Node) -> dict[str, object]:
    first = inventory.servers()[0]
    config: dict[str, object] = {
        "node-name": node.name,
        # pods talk over the mesh network, which faults touch; the control plane over management, which they don't
        "node-ip": str(inventory.mesh_address(node.name)),
        "flannel-iface": _MESH_DEVICE,
        "token-file": _TOKEN,
        "node-label": _labels(node),
        # not protect-kernel-defaults: it wants kernel.panic=10, and a node of ours stays down when its kernel dies
        # images come from the shared disk and can't be fetched again: they are never collected
        "kubelet-arg": ["image-gc-high-threshold=100", "streaming-connection-idle-timeout=5m"],
    }
    if node.name != first.name:
        # of several servers the first one has the address that moves when the others come, and may be gone later
        config["server"] = f"https://{api_address(inventory)}:{API_PORT}"
    if node.cluster == "server" and inventory.agents():
        # pods of a lost agent go to other agents first: a server that is busy with them answers nobody
        config["node-taint"] = [f"{SERVER_ROLE}=true:PreferNoSchedule"]
    if node.cluster == "server":
        config |= _server(inventory, node, is_first=node.name == first.name)
    return config


def _server(inventory: Inventory, node: Node, *, is_first: bool) -> dict[str, object]:
    cluster = inventory.cluster
    own = str(inventory.management_address(node.name))
    names = {api_address(inventory), *(str(inventory.management_address(s.name)) for s in inventory.servers())}
    config: dict[str, object] = {
        # there is no default route to find an address by
        "advertise-address": own,
        "tls-san": sorted(names),
        "cluster-cidr": str(cluster.pods),
        "service-cidr": str(cluster.services),
        # all nodes are on one network: packets between pods are routed, not wrapped
        "flannel-backend": "host-gw",
        "disable": [name for name in _PACKAGED if name not in cluster.components],
        "secrets-encryption": cluster.secrets_encryption,
        # it installs charts; only traefik is one
        "disable-helm-controller": "traefik" not in cluster.components,
        "write-kubeconfig-mode": "0600",
        "kube-controller-manager-arg": ["terminated-pod-gc-threshold=10"],
    }
    api = [f"etcd-compaction-interval={_COMPACTION}"]
    if len(inventory.servers()) > 1:
        api += [f"etcd-{check}-timeout={ETCD_ANSWERS}s" for check in ("healthcheck", "readycheck")]
        config["kube-controller-manager-arg"] = ["terminated-pod-gc-threshold=10", *_LEADERS]
        config |= {f"kube-{name}-arg": [*_LEADERS] for name in ("scheduler", "cloud-controller-manager")}
        if is_first:
            config["cluster-init"] = True
    if cluster.audit_log:
        api += [
            f"audit-policy-file={_AUDIT_POLICY}",
            f"audit-log-path={_AUDIT_LOG}",
            "audit-log-maxage=7",
            "audit-log-maxbackup=2",
            "audit-log-maxsize=50",
        ]
    config["kube-apiserver-arg"] = api
    return config


def _labels(node: Node) -> list[str]:
    place = Locality.parse(node.locality)
    labels = {
        # Kubernetes' well-known labels, from which Istio takes region and zone; the third one is Istio's own
        "topology.kubernetes.io/region": place.region,
        "topology.kubernetes.io/zone": place.zone,
        "topology.istio.io/subzone": place.subzone,
    }
    return [f"{name}={value}" for name, value in labels.items() if value]


_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # leases are renewed every few seconds by everybody
        {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
        {"level": "Metadata"},
    ],
}


def _unit(inventory: Inventory, node: Node) -> str:
    role = node.cluster
    # without a default route a service's address must lead somewhere before it is translated
    route = f"/sbin/ip route replace {inventory.cluster.services} dev {_MESH_DEVICE}"
    # a gateway's address is its node's: kube-proxy hands what arrives there to the pod
    gateways = [w for w in topology_of(inventory).workloads if w.kind is ProxyKind.GATEWAY]
    own = [str(w.address) for w in gateways if w.node == node.name]
    quiet = " ".join(f"net.ipv4.conf.{device}.send_redirects=0" for device in ("all", _MESH_DEVICE))
    lines = (
        "[Unit]",
        f"Description=k3s {role} of the lab {inventory.id}",
        "Wants=network-online.target",
        "After=network-online.target",
        "RequiresMountsFor=/opt/testbed",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStartPre={route}",
        # machines reach pods through the server; told of a shorter way, they would leave a translated connection
        f"ExecStartPre=/sbin/sysctl -qw {quiet}",
        *(f"ExecStartPre=/sbin/ip address replace {address}/32 dev {_MESH_DEVICE}" for address in own),
        "ExecStartPre=-/sbin/modprobe br_netfilter",
        "ExecStartPre=-/sbin/modprobe overlay",
        # containerd's folder begins with every image in it; a copy that was cut off is made again
        f"ExecStartPre=/bin/sh -c 'test -d {_STORE} || {{ rm -rf {_STORE}.new && mkdir -p {_STATE}/agent && "
        f"cp -a {SHARED}/k3s/store/start {_STORE}.new && mv {_STORE}.new {_STORE}; }}'",
        *([f"ExecStartPre=/bin/sh {_OWN_DATA_FILE}"] if inventory.mesh.is_ambient else []),
        f"ExecStart=/usr/local/bin/k3s {role}",
        # pods outlive a restart of k3s
        "KillMode=process",
        "Delegate=yes",
        "LimitNOFILE=1048576",
        "LimitNPROC=infinity",
        "LimitCORE=infinity",
        "TasksMax=infinity",
        # an agent is only started once it has reached its server: testbed waits, with a limit and the journal
        "TimeoutStartSec=0",
        "Restart=always",
        "RestartSec=5s",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    )
    return "\n".join(lines)


def _yaml(value: object) -> str:
    # through JSON: sets, tuples and numbers that YAML would write in its own ways don't come so far
    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, width=200)
