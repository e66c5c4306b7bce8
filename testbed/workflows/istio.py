"""Istio in the lab's cluster: its control plane, the pods of workloads, the sidecars of machines outside."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace

import yaml

from testbed.artifacts import needed
from testbed.artifacts.istio import generate, has_istio_filters, istioctl
from testbed.backends.istio.api import ApiRefused
from testbed.backends.istio.homes import bring_home, name_namespaces, nodes_of, pods_of
from testbed.backends.istio.installing import around, in_order, mesh_config, operator
from testbed.backends.istio.manifests import log_folder
from testbed.backends.istio.objects import LabObjects
from testbed.backends.istio.reaching import api_of
from testbed.deploy.files import NodeFile, UnitFiles
from testbed.deploy.sidecar import AUDIENCE, TOKEN_LIFE, Identity, hosts_file, sidecar_files
from testbed.errors import LabError
from testbed.host.directories import cache_root
from testbed.lab.lab import Lab
from testbed.model.topology import MeshWorkload
from testbed.plan import ObservedLab
from testbed.waiting import NotYet, wait_until
from testbed.workflows.authority import lab_ca
from testbed.workflows.cluster import (
    CONTROL_PLANE,
    PODS,
    cluster_objects,
    istio_version,
    wanted_cluster,
)
from testbed.workflows.kubernetes import deploy_units
from testbed.workflows.registries import registries_access

AVAILABLE_LIMIT = 600.0
"""Seconds for istiod, and for all pods together, to be available."""

_RENEW = TOKEN_LIFE / 3


def install_control_plane(lab: Lab, cancel: threading.Event) -> None:
    """Apply the release's manifests with the lab's settings and CA, and wait until istiod is available."""
    inventory = lab.inventory
    version = istio_version(inventory)
    files = {a.name: cache_root() / "artifacts" / a.path for a in needed(inventory) if a.product == "istio"}
    archive = next(path for name, path in files.items() if name.endswith(".tar.gz"))
    program = istioctl(archive, cache_root() / "istioctl" / version)
    plain = not has_istio_filters(files["istio-sidecar.deb"])
    generated = generate(program, yaml.safe_dump(operator(inventory, version, plain_envoy=plain)))
    manifests = in_order(yaml.safe_load_all(generated), inventory)
    ca = lab_ca(lab)
    wanted = wanted_cluster(inventory, registries_access(inventory, lab.file))
    assert wanted is not None  # noqa: S101 the step is of a cluster's plan
    with closing(api_of(lab)) as api:
        objects = LabObjects(api, lab.id)
        objects.apply([*around(inventory, ca.as_files()), *manifests])
        _wait("the API serves Istio's kinds", lambda: _known(objects), cancel)
        _wait("istiod is available", lambda: objects.available(manifests), cancel)
        objects.note(CONTROL_PLANE, wanted.control_plane)


def _known(objects: LabObjects) -> None:
    objects.known("networking.istio.io/v1", "WorkloadGroup")
    objects.known("networking.istio.io/v1alpha3", "EnvoyFilter")


def deploy_pods(lab: Lab, cancel: threading.Event) -> None:
    """Apply the workloads in the cluster, and wait until their pods are available at home, sidecars included."""
    wanted = wanted_cluster(lab.inventory, registries_access(lab.inventory, lab.file))
    assert wanted is not None  # noqa: S101 the step is of a cluster's plan
    folders = [log_folder(workload.name) for workload in pods_of(lab)]
    for node in sorted(nodes_of(lab)):
        # proxies write there, as the user that they run as; any pod may come to be on any node
        lab.connection(node).run(["install", "-d", "-o", "1337", "-g", "1337", *folders])
    manifests = cluster_objects(lab.inventory)
    with closing(api_of(lab)) as api:
        objects = LabObjects(api, lab.id)
        objects.apply(manifests)
        objects.prune(manifests)
        _wait("the pods are available", lambda: objects.available(manifests), cancel)
        objects.note(PODS, wanted.pods)
    bring_home(lab, nodes_of(lab), cancel)
    name_namespaces(lab)


def deploy_sidecars(lab: Lab, nodes: Iterable[str]) -> None:
    """Settings and identity of the sidecars on machines outside the cluster; a change restarts them."""
    machines = {n.name for n in lab.inventory.nodes if n.cluster is None} & set(nodes)
    if not machines:
        return
    root = lab_ca(lab).roots.decode()
    units: dict[str, list[dict[str, object]]] = {}
    with closing(api_of(lab)) as api:
        objects = LabObjects(api, lab.id)
        for workload in lab.topology.workloads:
            if workload.node in machines:
                token = objects.token(workload.namespace, workload.service_account, AUDIENCE, TOKEN_LIFE)
                identity = Identity(token, root, int(time.time()) + TOKEN_LIFE)
                files = with_names(lab, sidecar_of(lab, workload, identity), first=workload.node not in units)
                units.setdefault(workload.node, []).append(files.as_data())
    deploy_units(lab, units)


def sidecar_of(lab: Lab, workload: MeshWorkload, identity: Identity | None = None) -> UnitFiles:
    """A machine's sidecar; without an ``identity`` as a digest has it, which renewing changes nothing of."""
    proxy = json.dumps(mesh_config(lab.inventory)["defaultConfig"])
    return sidecar_files(lab.inventory, workload, identity or Identity(), proxy)


def with_names(lab: Lab, files: UnitFiles, *, first: bool) -> UnitFiles:
    """``files`` and, once a machine, the names of istiod and of the services."""
    hosts = NodeFile("/etc/hosts", hosts_file(lab.inventory, lab.topology), restarts=False)
    return UnitFiles(files.unit, (hosts, *files.files), files.links) if first else files


def with_identities(lab: Lab, observed: ObservedLab) -> ObservedLab:
    """``observed``, where a machine whose sidecars' tokens run out soon counts as having no workloads set up."""
    machines = dict(observed.machines)
    for node in lab.inventory.nodes:
        seen = machines.get(node.name)
        if node.cluster is None and seen is not None and seen.answers and seen.workloads is not None:
            names = [w.name for w in lab.topology.workloads if w.node == node.name]
            paths = [f"/etc/testbed/istio/{name}/expires" for name in names]
            said = lab.connection(node.name).run(["cat", *paths], check=False).stdout.split() if names else []
            if len(said) != len(names) or any(int(at) < time.time() + _RENEW for at in said):
                machines[node.name] = replace(seen, workloads=None)
    return replace(observed, machines=machines)


def _wait(name: str, probe: Callable[[], None], cancel: threading.Event) -> None:
    def look() -> None:
        try:
            probe()
        except LabError as e:  # the API of a machine that has its hands full: it answers later
            raise NotYet(str(e)) from None
        except ApiRefused as e:
            if e.code < 500:
                raise
            raise NotYet(str(e)) from None

    wait_until(name, look, limit=AVAILABLE_LIMIT, interval=2, cancel=cancel, next_step="see: testbed status")
