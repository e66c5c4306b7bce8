"""An inventory's services and workloads as objects of Kubernetes and Istio.  Pure.

A workload on a node of the cluster is a Deployment of one pod that is at home on that node: it runs there unless
the node is lost or takes no pods, and then on another one.  One on a machine outside is a WorkloadGroup, into which
its sidecar registers it and from which istiod takes it when it is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from testbed.backends.istio.ambient import MODE_LABEL
from testbed.backends.istio.applying import LAB_LABEL
from testbed.backends.istio.installing import DRAIN, MOVED_AFTER
from testbed.backends.istio.places import WORKLOAD_LABEL
from testbed.backends.istio.revisions import REVISION_LABEL, SYSTEM
from testbed.deploy.sidecar import probe
from testbed.model.clusters import SERVER_ROLE
from testbed.model.inventory import Inventory, Node, Workload
from testbed.model.reading import instance_name
from testbed.model.topology import MeshService, MeshWorkload, Protocol, ProxyKind, Topology

LOGS = "/var/log/testbed"
PROGRAMS = "/opt/testbed/programs"

_LOST = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
"""Taints of a node that counts as lost, or is not well; pods that say nothing of them stay for five minutes."""


def log_folder(workload: str) -> str:
    """Where the workload's access log lies on each node of the cluster: it may run on any."""
    return f"{LOGS}/{workload}"


def objects(inventory: Inventory, topology: Topology, image: str, revision: str) -> list[dict[str, Any]]:
    """Everything of the lab in the cluster beside its resources, in the order that it goes in.

    ``image`` is the reference of the sample services' image, ``revision`` the one of Istio that serves the proxies.
    """
    made = [*_namespaces(inventory, topology, revision), *_accounts(topology)]
    made += [*map(_service, topology.services), *_workloads(inventory, topology, image)]
    for manifest in made:
        labels = manifest["metadata"].setdefault("labels", {})
        labels[LAB_LABEL] = inventory.id
        if manifest["kind"] == "Deployment" and topology.workload(manifest["metadata"]["name"]).has_envoy:
            # another revision is another pod; and in a namespace without the label it is what has the pod injected
            manifest["spec"]["template"]["metadata"]["labels"][REVISION_LABEL] = revision
    return made


def _namespaces(inventory: Inventory, topology: Topology, revision: str) -> Iterator[dict[str, Any]]:
    names = {w.namespace for w in topology.workloads} | {s.namespace for s in topology.services}
    for name in sorted(names - {SYSTEM}):
        labels = {REVISION_LABEL: revision}
        if inventory.mesh.is_ambient:
            labels[MODE_LABEL] = "ambient"
        metadata = {"name": name, "labels": labels}
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _accounts(topology: Topology) -> Iterator[dict[str, Any]]:
    for namespace, name in sorted({(w.namespace, w.service_account) for w in topology.workloads}):
        metadata = {"name": name, "namespace": namespace}
        yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    for namespace in sorted({w.namespace for w in topology.workloads if w.kind is ProxyKind.GATEWAY}):
        # a gateway reads the certificates that Gateway resources name (credentialName)
        yield from _reads_secrets(namespace, topology)


def _reads_secrets(namespace: str, topology: Topology) -> Iterator[dict[str, Any]]:
    metadata = {"name": "testbed-gateways", "namespace": namespace}
    group = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "list"]}
    yield {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": dict(metadata), "rules": [rule]}
    accounts = {
        w.service_account for w in topology.workloads if w.kind is ProxyKind.GATEWAY and w.namespace == namespace
    }
    yield {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": dict(metadata),
        "roleRef": {"apiGroup": group, "kind": "Role", "name": metadata["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": a, "namespace": namespace} for a in sorted(accounts)],
    }


def _service(service: MeshService) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "namespace": service.namespace, "labels": dict(service.selector)},
        "spec": {
            # known before the cluster is: machines outside it and scenarios call it by this address
            "clusterIP": str(service.address),
            "selector": dict(service.selector),
            "ports": [
                {
                    "name": p.name,
                    "port": p.number,
                    "targetPort": p.target,
                    "protocol": "TCP",
                    **_protocol(p.protocol),
                }
                for p in service.ports
            ],
        },
    }


def _protocol(protocol: Protocol) -> dict[str, str]:
    # Istio's protocol selection: appProtocol counts more than the port's name
    return {} if protocol is Protocol.AUTO else {"appProtocol": protocol.value.lower()}


def _workloads(inventory: Inventory, topology: Topology, image: str) -> Iterator[dict[str, Any]]:
    declared = {instance_name(w, replica): w for w in inventory.workloads for replica in range(w.replicas)}
    inside = {n.name: n for n in inventory.nodes if n.cluster is not None}
    for workload in topology.workloads:
        home = inside.get(workload.node)
        if home is None:
            yield _group(workload)
        elif workload.kind is ProxyKind.GATEWAY:
            yield _gateway(workload, home)
            yield _gateway_service(workload)
        else:
            yield _pod(workload, declared[workload.name], image, home)


def _deployment(
    workload: MeshWorkload, home: Node, annotations: Mapping[str, str], spec: Mapping[str, Any]
) -> dict[str, Any]:
    """One pod that stays until its successor is ready: callers find one or the other.

    One on a node that is lost and not dead (frozen, or cut off) may go on beside it until that node hears of it.
    """
    labels = {
        **workload.labels,
        WORKLOAD_LABEL: workload.name,
        # said to pods in ambient mode too: the namespace's revision would give them a sidecar
        "sidecar.istio.io/inject": "true" if workload.has_envoy else "false",
    }
    metadata = {"name": workload.name, "namespace": workload.namespace}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": {WORKLOAD_LABEL: workload.name}},
            "template": {
                "metadata": {"labels": labels, "annotations": dict(annotations)},
                "spec": {
                    "serviceAccountName": workload.service_account,
                    **_at_home_on(home),
                    "terminationGracePeriodSeconds": 5,  # programs as a container's first process ignore SIGTERM
                    **spec,
                },
            },
        },
    }


def _at_home_on(node: Node) -> dict[str, Any]:
    """Preferred with the highest weight there is, and left soon after it counts as lost."""
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}
    preferred = {"weight": 100, "preference": {"matchExpressions": [here]}}
    common = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": MOVED_AFTER}
    return {
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}},
        "tolerations": [{"key": key, **common} for key in _LOST]
        + (_ON_SERVERS if node.cluster == "server" else []),
    }


_ON_SERVERS = [{"key": SERVER_ROLE, "operator": "Exists", "effect": "PreferNoSchedule"}]
"""Of a pod that is at home on one; that taint would count more than its preference."""


def _pod(workload: MeshWorkload, declared: Workload, image: str, home: Node) -> dict[str, Any]:
    # the injected container is no part of the template: its volumes are asked for by annotation
    volumes = {"access-log": {"hostPath": {"path": log_folder(workload.name), "type": "Directory"}}}
    mounts = {"access-log": {"mountPath": LOGS}}
    annotations = {
        "sidecar.istio.io/userVolume": json.dumps(volumes),
        "sidecar.istio.io/userVolumeMount": json.dumps(mounts),
    }
    if not workload.has_envoy:
        annotations = {}
    container: dict[str, Any] = {
        "name": "program",
        "image": image,
        "imagePullPolicy": "Never",
        "args": [f"{PROGRAMS}/{declared.program}.py"],
        "env": [*({"name": k, "value": v} for k, v in environment(workload, declared).items()), _NODE],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
    if declared.program == "none":
        container["args"] = ["-c", "import signal; signal.pause()"]
    return _deployment(workload, home, annotations, {"containers": [container]})


_NODE = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
"""The node that the pod is on, which need not be the workload's."""


def environment(workload: MeshWorkload, declared: Workload) -> dict[str, str]:
    """What a program is told, beside its node: as ``testbed_node.py`` does it on a machine."""
    ports = [str(p.target) for p in workload.ports]
    return {
        "SERVICE": workload.service,
        "VERSION": workload.version,
        "NAMESPACE": workload.namespace,
        "INSTANCE": workload.name,
        "PORT": ports[0] if ports else "",
        "PORTS": ",".join(ports),
        "PROGRAM": declared.program,
        **declared.settings,
    }


_LEAVES_LAST = {"proxyMetadata": {"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true", "MINIMUM_DRAIN_DURATION": DRAIN}}
"""A gateway that has a successor ends after its callers' last connection (pilot-agent's own settings)."""


def _gateway(workload: MeshWorkload, home: Node) -> dict[str, Any]:
    # Istio's gateway template makes the container: "auto" is replaced by the release's proxy
    container = {
        "name": "istio-proxy",
        "image": "auto",
        "imagePullPolicy": "IfNotPresent",  # said, as Kubernetes makes of "auto" (no tag) that it is always pulled
        "volumeMounts": [{"name": "access-log", "mountPath": LOGS}],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    }
    spec = {
        "containers": [container],
        "volumes": [
            {"name": "access-log", "hostPath": {"path": log_folder(workload.name), "type": "Directory"}},
        ],
        # low ports without a capability
        "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]},
        "terminationGracePeriodSeconds": 30,  # at most, for requests that are under way
    }
    annotations = {"inject.istio.io/templates": "gateway", "proxy.istio.io/config": json.dumps(_LEAVES_LAST)}
    return _deployment(workload, home, annotations, spec)


def _gateway_service(workload: MeshWorkload) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": workload.name, "namespace": workload.namespace, "labels": dict(workload.labels)},
        "spec": {
            # an address of the mesh network that the gateway's own node answers for: where callers outside find it.
            # kube-proxy there hands on to the pod wherever it is; without that node nobody answers
            "externalIPs": [str(workload.address)],
            "selector": {WORKLOAD_LABEL: workload.name},
            "ports": [
                {"name": p.name, "port": p.number, "targetPort": p.target, "protocol": "TCP"}
                for p in workload.ports
            ],
        },
    }


def _group(workload: MeshWorkload) -> dict[str, Any]:
    template: dict[str, Any] = {"serviceAccount": workload.service_account}
    if workload.ports:
        template["ports"] = {p.name: p.target for p in workload.ports}
    if str(workload.locality):
        template["locality"] = str(workload.locality)
    spec: dict[str, Any] = {"metadata": {"labels": dict(workload.labels)}, "template": template}
    if workload.ports:
        # the sidecar asks and tells istiod, which takes a sick workload out of the endpoints
        spec["probe"] = probe(workload)
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadGroup",
        "metadata": {"name": workload.name, "namespace": workload.namespace},
        "spec": spec,
    }
