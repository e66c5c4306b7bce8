"""Istio in the lab's cluster: its control plane, the pods of workloads, the sidecars of machines outside."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import yaml

from testbed.artifacts import needed
from testbed.artifacts.istio import generate, has_istio_filters, istioctl
from testbed.backends.istio.ambient import plain_hbone
from testbed.backends.istio.capturing import mode_of, require_captured, require_mode
from testbed.backends.istio.homes import bring_home, name_namespaces, nodes_of, pods_of
from testbed.backends.istio.installing import around, installation, mesh_config, operator
from testbed.backends.istio.manifests import log_folder
from testbed.backends.istio.objects import LabObjects
from testbed.backends.istio.reaching import api_of
from testbed.backends.istio.revisions import goes_back
from testbed.deploy.bringing import place_of
from testbed.deploy.files import NodeFile, UnitFiles
from testbed.deploy.sidecar import (
    AUDIENCE,
    TOKEN_LIFE,
    UNPACKED,
    Identity,
    SidecarRelease,
    folder,
    hosts_file,
    release_file,
    sidecar_files,
)
from testbed.host.directories import cache_root
from testbed.lab.lab import Lab
from testbed.model.topology import MeshWorkload
from testbed.plan import ObservedLab
from testbed.workflows.authority import lab_ca
from testbed.workflows.cluster import (
    CONTROL_PLANE,
    PODS,
    cluster_objects,
    istio_version,
    wanted_cluster,
)
from testbed.workflows.kubernetes import AVAILABLE_LIMIT, await_api, deploy_units
from testbed.workflows.registries import registries_access
from testbed.workflows.upgrading import await_sidecar, roll_pods

POD_LIMIT = 60.0
"""Seconds that each pod adds to that: emulated machines on two cores start some ten of them in as many minutes."""

_RENEW = TOKEN_LIFE / 3


def install_control_plane(lab: Lab, cancel: threading.Event) -> None:
    """Apply the release's manifests with the lab's settings and CA, wait until istiod is available, and make its
    revision the one for whatever names none.  Revisions that are there stay."""
    inventory = lab.inventory
    version = istio_version(inventory)
    files = {a.name: cache_root() / "artifacts" / a.path for a in needed(inventory) if a.product == "istio"}
    archive = next(path for name, path in files.items() if name.endswith(".tar.gz"))
    program = istioctl(archive, cache_root() / "istioctl" / version)
    plain = not has_istio_filters(files["istio-sidecar.deb"])
    generated = generate(program, yaml.safe_dump(operator(inventory, version, plain_envoy=plain)))
    made = installation(yaml.safe_load_all(generated), inventory, version)
    ca = lab_ca(lab)
    wanted = wanted_cluster(inventory, registries_access(inventory, lab.file), lab.began_with)
    assert wanted is not None  # noqa: S101 the step is of a cluster's plan
    with closing(api_of(lab)) as api:
        objects = LabObjects(api, lab.id)
        there = await_api("the API says which revisions of Istio it has", objects.revisions, cancel)
        mode = await_api("the API says which mode of Istio it has", partial(mode_of, api), cancel)
        require_mode(mode, inventory.mesh.mode, there, lab.id)
        beside = made.beside
        if goes_back(there, version):
            beside = tuple(m for m in beside if m["kind"] != "CustomResourceDefinition")
        first = partial(objects.apply, [*around(inventory, ca.as_files()), *beside])
        await_api("the API takes Istio's objects", first, cancel)
        await_api("the API serves Istio's kinds", partial(_known, objects), cancel)
        await_api("istiod is available", partial(objects.available, beside), cancel)
        await_api("the API takes the current revision's objects", partial(objects.apply, made.current), cancel)
        await_api("istiod's webhooks have its certificate", partial(objects.vouched, made.webhooks), cancel)
        if plain and inventory.mesh.is_ambient:
            hbone = partial(objects.apply, [plain_hbone()])
            await_api("the API takes what lets plain Envoy take HBONE", hbone, cancel)
        noted = partial(objects.note, CONTROL_PLANE, wanted.control_plane)
        await_api("the API keeps a note of the control plane", noted, cancel)


def _known(objects: LabObjects) -> None:
    objects.known("networking.istio.io/v1", "WorkloadGroup")
    objects.known("networking.istio.io/v1alpha3", "EnvoyFilter")


def deploy_pods(lab: Lab, cancel: threading.Event) -> None:
    """Apply the workloads in the cluster; wait until pods are available at home, with sidecars or captured."""
    wanted = wanted_cluster(lab.inventory, registries_access(lab.inventory, lab.file), lab.began_with)
    assert wanted is not None  # noqa: S101 the step is of a cluster's plan
    folders = [log_folder(workload.name) for workload in pods_of(lab)]
    for node in sorted(nodes_of(lab)):
        # proxies write there, as the user that they run as; any pod may come to be on any node
        lab.connection(node).run(["install", "-d", "-o", "1337", "-g", "1337", *folders])
    manifests = cluster_objects(lab.inventory)
    pods = [m for m in manifests if m["kind"] == "Deployment"]
    others = [m for m in manifests if m["kind"] != "Deployment"]
    with closing(api_of(lab)) as api:
        objects = LabObjects(api, lab.id)
        await_api("the API takes what pods need", partial(objects.apply, others), cancel)
        roll_pods(objects, pods, lambda one: _available(objects, one, cancel))
        await_api("the API lets go of workloads that are not wanted", partial(objects.prune, manifests), cancel)
        limit = AVAILABLE_LIMIT + POD_LIMIT * len(pods)
        await_api("the pods are available", partial(objects.available, pods), cancel, limit=limit)
        if lab.inventory.mesh.is_ambient:
            await_api("the pods are captured", partial(require_captured, api, lab.topology), cancel)
        await_api("the API keeps a note of the pods", partial(objects.note, PODS, wanted.pods), cancel)
    bring_home(lab, nodes_of(lab), cancel)
    name_namespaces(lab)


def _available(objects: LabObjects, deployment: Mapping[str, Any], cancel: threading.Event) -> None:
    name = f"{deployment['metadata']['name']} is available"
    await_api(name, partial(objects.available, [deployment]), cancel)


def deploy_sidecars(lab: Lab, nodes: Iterable[str], cancel: threading.Event) -> None:
    """Settings and identity of the sidecars on machines outside the cluster.

    A change restarts them: all at once, but those that are of another release so far one after the other.
    """
    machines = {n.name for n in lab.inventory.nodes if n.cluster is None} & set(nodes)
    if not machines:
        return
    root = lab_ca(lab).roots.decode()
    outside = [w for w in lab.topology.workloads if w.node in machines]
    units: dict[str, list[dict[str, object]]] = {}
    named: set[str] = set()
    with closing(api_of(lab)) as api:
        objects = LabObjects(api, lab.id)
        older = [w for w in outside if _release_of(lab, w) not in ("", istio_version(lab.inventory))]
        for workload in outside:
            token = objects.token(workload.namespace, workload.service_account, AUDIENCE, TOKEN_LIFE)
            identity = Identity(token, root, int(time.time()) + TOKEN_LIFE)
            files = with_names(lab, sidecar_of(lab, workload, identity), first=workload.node not in named)
            named.add(workload.node)
            if workload in older:
                began = time.monotonic()
                deploy_units(lab, {workload.node: [files.as_data()]})
                await_sidecar(lab, api, workload, began, cancel)
            else:
                units.setdefault(workload.node, []).append(files.as_data())
    if units:
        deploy_units(lab, units)


def _release_of(lab: Lab, workload: MeshWorkload) -> str:
    """Which release a machine's sidecar was set up with; empty when it was not."""
    said = lab.connection(workload.node).run(["cat", release_file(workload.name)], check=False)
    return said.stdout.decode().strip()


def sidecar_of(lab: Lab, workload: MeshWorkload, identity: Identity | None = None) -> UnitFiles:
    """A machine's sidecar; without an ``identity`` as a digest has it, which renewing changes nothing of."""
    proxy = json.dumps(mesh_config(lab.inventory)["defaultConfig"])
    version = istio_version(lab.inventory)
    brought = lab.began_with is not None and lab.began_with.istio != version
    release = SidecarRelease(version, f"{place_of(f'istio/{version}')}/sidecar" if brought else UNPACKED)
    return sidecar_files(lab.inventory, workload, identity or Identity(), release, proxy)


def with_names(lab: Lab, files: UnitFiles, *, first: bool) -> UnitFiles:
    """``files`` and, once a machine, the names of istiod and of the services."""
    hosts = NodeFile("/etc/hosts", hosts_file(lab.inventory, lab.topology), restarts=False)
    return UnitFiles(files.unit, (hosts, *files.files), files.links) if first else files


def with_identities(lab: Lab, observed: ObservedLab) -> ObservedLab:
    """``observed``, where a machine counts as having no workloads set up whose sidecars' tokens run out soon, or
    one of whose sidecars is of another release: an upgrade was interrupted."""
    machines = dict(observed.machines)
    for node in lab.inventory.nodes:
        seen = machines.get(node.name)
        if node.cluster is None and seen is not None and seen.answers and seen.workloads is not None:
            names = [w.name for w in lab.topology.workloads if w.node == node.name]
            paths = [f"{folder(name)}/expires" for name in names] + [release_file(name) for name in names]
            said = lab.connection(node.name).run(["cat", *paths], check=False).stdout.split() if names else []
            expires, releases = said[: len(names)], {each.decode() for each in said[len(names) :]}
            late = any(int(at) < time.time() + _RENEW for at in expires)
            if len(said) != len(paths) or late or releases - {istio_version(lab.inventory)}:
                machines[node.name] = replace(seen, workloads=None)
    return replace(observed, machines=machines)
