"""Istio's sidecar for a workload on a machine outside the cluster: its agent, its settings, who it is.

Pure: inventory in, files out.  The programs come from the release's package for machines, which the shared disk has
unpacked.  ``pilot-agent`` looks for everything relative to where it is started, so each workload has a folder.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from testbed.deploy.files import NodeFile, UnitFiles
from testbed.deploy.k3s import SHARED
from testbed.model.clusters import istiod_address, router_address
from testbed.model.inventory import Inventory
from testbed.model.topology import MeshWorkload, Topology

ISTIOD = "istiod.istio-system.svc"
AUDIENCE = "istio-ca"
"""Whom tokens are for: Istio's ``global.sds.token.aud``."""

TOKEN_LIFE = 30 * 24 * 3600
"""Seconds; as leaf certificates of the standalone mesh."""

UNPACKED = f"{SHARED}/istio/sidecar"
"""Where the shared disk has the package's files."""

_STATE = "/var/lib/testbed-istio"


@dataclass(frozen=True)
class Identity:
    """What proves who a workload is.  Both are texts; ``expires`` is in seconds since the epoch."""

    token: str = field(default="", repr=False)
    root: str = ""
    expires: int = 0


@dataclass(frozen=True)
class SidecarRelease:
    """Which of Istio's releases the sidecar is of, and where on the machine that package's files lie."""

    version: str
    programs: str = UNPACKED


def folder(workload: str) -> str:
    """Where a workload's settings lie."""
    return f"/etc/testbed/istio/{workload}"


def release_file(workload: str) -> str:
    """Where a machine says which release a workload's sidecar is of."""
    return f"{folder(workload)}/release"


def sidecar_files(
    inventory: Inventory, workload: MeshWorkload, identity: Identity, release: SidecarRelease, proxy: str = "{}"
) -> UnitFiles:
    """Everything for the workload's sidecar.  ``proxy`` is Istio's ProxyConfig in JSON, as pods have it."""
    unit = f"testbed-sidecar@{workload.name}.service"
    here = folder(workload.name)
    files = (
        # read by a sidecar that starts without a certificate that holds: one that runs renews with what it has
        NodeFile(f"{here}/token", identity.token, 0o600, restarts=False),
        NodeFile(f"{here}/expires", f"{identity.expires}\n", restarts=False),
        NodeFile(f"{here}/root-cert.pem", identity.root),
        NodeFile(f"{here}/env", _environment(inventory, workload, release, proxy)),
        NodeFile(f"/etc/systemd/system/{unit}.d/istio.conf", _unit(workload.name, release)),
        NodeFile(release_file(workload.name), f"{release.version}\n"),
    )
    return UnitFiles(unit, files)


def hosts_file(inventory: Inventory, topology: Topology) -> str:
    """``/etc/hosts`` of a machine outside the cluster: istiod and the services, at addresses that are fixed."""
    lines = ["127.0.0.1 localhost", f"{istiod_address(inventory)} {ISTIOD} {ISTIOD}.cluster.local"]
    for service in topology.services:
        in_namespace = f"{service.name}.{service.namespace}"
        # the short name is of the default namespace, as in its pods
        short = [service.name] if service.namespace == "default" else []
        lines.append(" ".join([str(service.address), *short, in_namespace, f"{in_namespace}.svc", service.host]))
    return "".join(f"{line}\n" for line in lines)


def probe(workload: MeshWorkload) -> dict[str, object]:
    """Istio's ReadinessProbe of a workload with ports: it is well while its first port takes connections."""
    timing = {"periodSeconds": 5, "failureThreshold": 2, "timeoutSeconds": 5}
    return {**timing, "tcpSocket": {"port": workload.ports[0].target}}


def routes(inventory: Inventory) -> list[tuple[str, str]]:
    """(network, next hop) of what a machine's workloads reach through the cluster: its pods and its services.

    Through a server, which knows every node's pods and translates services' addresses; of several, through the one
    that has the address for it.
    """
    via = str(router_address(inventory))
    return [(str(inventory.cluster.pods), via), (str(inventory.cluster.services), via)]


def _environment(inventory: Inventory, workload: MeshWorkload, release: SidecarRelease, proxy: str) -> str:
    config = {
        **json.loads(proxy),
        "discoveryAddress": f"{ISTIOD}:15012",
        "binaryPath": f"{release.programs}/usr/local/bin/envoy",
        "serviceCluster": f"{workload.labels.get('app', workload.name)}.{workload.namespace}",
    }
    if workload.ports:
        # the agent takes it from here; the one in the WorkloadGroup is for who reads it
        config["readinessProbe"] = probe(workload)
    labels = dict(sorted(workload.labels.items()))
    if str(workload.locality):
        # the bootstrap's locality counts more than the group's, and is empty without this (a label has no slash)
        labels["istio-locality"] = str(workload.locality).replace("/", ".")
    values = {
        "PROXY_CONFIG": json.dumps(config),  # JSON is YAML
        "CA_ADDR": f"{ISTIOD}:15012",
        # who has a certificate proves itself with it; kept on the disk, so that a reboot changes no identity
        "PROV_CERT": "./etc/certs",
        "OUTPUT_CERTS": "./etc/certs",
        # else the root is looked for among the certificates, before there are any
        "CA_ROOT_CA": "./var/run/secrets/istio/root-cert.pem",
        "XDS_ROOT_CA": "./var/run/secrets/istio/root-cert.pem",
        "ISTIO_BOOTSTRAP": f"{release.programs}/var/lib/istio/envoy/envoy_bootstrap_tmpl.json",
        "TRUST_DOMAIN": inventory.mesh.trust_domain,
        "INSTANCE_IP": str(workload.address),
        "POD_NAME": workload.name,
        "POD_NAMESPACE": workload.namespace,
        "ISTIO_NAMESPACE": workload.namespace,
        "SERVICE_ACCOUNT": workload.service_account,
        "ISTIO_META_AUTO_REGISTER_GROUP": workload.name,
        "ISTIO_META_CLUSTER_ID": "Kubernetes",
        "ISTIO_META_WORKLOAD_NAME": workload.name,
        "ISTIO_META_MESH_ID": inventory.mesh.trust_domain,
        "ISTIO_METAJSON_LABELS": json.dumps(labels),
        "ISTIO_META_DNS_CAPTURE": "false",
        "CANONICAL_SERVICE": workload.labels.get("app", workload.name),
        "CANONICAL_REVISION": workload.version or "latest",
        # what istiod puts into the environment of pods
        **config.get("proxyMetadata", {}),
    }
    return "".join(f"{name}={_quoted(value)}\n" for name, value in values.items())


def _quoted(value: str) -> str:
    """For systemd's EnvironmentFile (systemd.exec(5)): what a shell would expand is escaped."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", value) + '"'


def _unit(workload: str, release: SidecarRelease) -> str:
    state, here = f"{_STATE}/{workload}", folder(workload)
    secrets = f"{state}/var/run/secrets"
    lines = (
        "[Unit]",
        "ConditionPathExists=",
        f"ConditionPathExists={here}/token",
        "",
        "[Service]",
        f"WorkingDirectory=-{state}",
        f"EnvironmentFile={here}/env",
        # istiod's access log has one path for all proxies: each has its own folder there
        f"BindPaths=/var/log/testbed/{workload}:/var/log/testbed",
        f"ExecStartPre=+/bin/sh -c 'install -d -o istio-proxy -g istio-proxy {state} {state}/etc"
        f" {state}/etc/certs {state}/var {state}/var/run {secrets} {secrets}/tokens {secrets}/istio"
        f" && install -o istio-proxy -m 0600 {here}/token {secrets}/tokens/istio-token"
        f" && install -o istio-proxy -m 0644 {here}/root-cert.pem {secrets}/istio/root-cert.pem'",
        "ExecStart=",
        f"ExecStart={release.programs}/usr/local/bin/pilot-agent proxy sidecar",
        "",
    )
    return "\n".join(lines)
