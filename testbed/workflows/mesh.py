"""The mesh of a lab: which backend, which resources, and what its proxies say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from testbed.backends.contract import Applied, Backend, MeshDiff
from testbed.backends.istio.ambient_backend import AmbientBackend
from testbed.backends.istio.backend import IstioBackend
from testbed.backends.istio.homes import nodes_of
from testbed.backends.istio.places import ClusterPlaces
from testbed.backends.istio.reaching import api_of
from testbed.backends.istio.revisions import revision_of
from testbed.backends.standalone import StandaloneBackend
from testbed.compiler.security import MeshConfig, SecurityInputs
from testbed.errors import bad_input
from testbed.host.lock import hold
from testbed.lab.lab import Lab
from testbed.lab.snapshots.saving import go_on
from testbed.lab.snapshots.thawing import ask
from testbed.resources import Key, ResourceSet, load
from testbed.workflows.artifacts import require_releases
from testbed.workflows.authority import lab_ca, require_ca
from testbed.workflows.cluster import istio_version
from testbed.workflows.loading import read_manifests
from testbed.workflows.nodes import require_up

APPLY_LIMIT = 60.0
"""Seconds for a change to be in force."""
LOOK_LIMIT = 60.0
"""Seconds for a node that was just restored to say what its proxies have."""


def backend_of(lab: Lab, *, lasting: bool = False) -> Backend:
    """The backend that the inventory names, on the lab's nodes.  Makes the lab's CA on first use.

    ``lasting``: many changes follow one another, which are quicker then.
    """
    require_backend(lab)
    if not lab.has_cluster:
        return standalone_of(lab, lasting=lasting)
    connections = {n.name: lab.connection(n.name) for n in lab.inventory.nodes}
    api = api_of(lab)
    cluster = nodes_of(lab)
    places = ClusterPlaces(api, lab.topology, cluster, revision_of(istio_version(lab.inventory)))
    addresses = {name: lab.inventory.mesh_address(name) for name in cluster}
    kind = AmbientBackend if lab.inventory.mesh.is_ambient else IstioBackend
    return kind(lab.id, lab.topology, connections, api, places, node_addresses=addresses)


def standalone_of(lab: Lab, *, restored: bool = False, lasting: bool = False) -> StandaloneBackend:
    """The standalone backend of a lab without a cluster; see :func:`backend_of`.

    ``restored``: the nodes were thawed a moment ago, and what thawed them is there to be asked.
    """
    connections = {n.name: lab.connection(n.name) for n in lab.inventory.nodes}
    ca = lab_ca(lab)

    def look(node: str, question: Mapping[str, Any]) -> bytes:
        said: str = ask(lab.connection(node), {"do": "look", **question}, LOOK_LIMIT)
        return said.encode()

    return StandaloneBackend(
        lab.topology,
        connections,
        ca,
        security=security_of(lab),
        look=look if restored else None,
        lasting=lasting,
        wake=partial(go_on, lab),
    )


def require_backend(lab: Lab) -> None:
    """Raise unless this host can make a lab with the inventory's backend; nothing has been touched then."""
    require_releases(lab)
    require_ca(lab)


def security_of(lab: Lab) -> SecurityInputs:
    """What policies depend on beside the resources: the mesh-wide settings of the inventory."""
    return SecurityInputs(mesh=MeshConfig.model_validate(lab.inventory.mesh.config))


def default_resources(lab: Lab) -> ResourceSet:
    """What the inventory puts into the mesh.  Raises BadInput, located."""
    return load(read_manifests(lab.inventory.mesh.resources))


@dataclass(frozen=True)
class Change:
    """What shall be in the mesh after an ``apply``, and the keys that leave it."""

    wanted: ResourceSet
    removed: tuple[Key, ...]


def intended(applied: ResourceSet, given: ResourceSet, *, prune: bool = False, delete: bool = False) -> Change:
    """Put ``given`` on top of what is applied; with ``prune`` in place of it; with ``delete`` take it away."""
    if delete:
        given_keys = given.keys()
        return Change(applied.without(given_keys), tuple(k for k in given_keys if k in applied))
    wanted = given if prune else applied.merged(given)
    return Change(wanted, tuple(r.key for r in applied if r.key not in wanted))


def diff(lab: Lab, names: Iterable[str], *, prune: bool = False, delete: bool = False) -> MeshDiff:
    """What :func:`apply` would change."""
    given = load(read_manifests(names))
    require_up(lab)
    backend = backend_of(lab)
    return backend.diff(intended(backend.applied(), given, prune=prune, delete=delete).wanted)


def apply(lab: Lab, names: Iterable[str], *, prune: bool = False, delete: bool = False) -> tuple[Change, Applied]:
    """Change the mesh and return when the change is in force.  Nothing is touched when the input is bad."""
    given = load(read_manifests(names))
    require_up(lab)
    with hold(lab.directories, f"testbed apply -i {lab.file}"):
        backend = backend_of(lab, lasting=True)
        made: list[Change] = []

        def edit(applied: ResourceSet) -> ResourceSet:
            made.append(intended(applied, given, prune=prune, delete=delete))
            return made[0].wanted

        done = backend.change(edit, limit=APPLY_LIMIT)
        return made[0], done


def workload_named(lab: Lab, name: str) -> str:
    """``name`` if the lab has such a workload, else BadInput with those it has."""
    names = sorted(w.name for w in lab.topology.workloads)
    if name not in names:
        raise bad_input(lab.file, f"the lab has no workload {name!r}", f"one of: {', '.join(names)}")
    return name


_ADMIN = {
    "clusters": "/clusters",
    "routes": "/config_dump?resource=dynamic_route_configs",
    "endpoints": "/clusters?format=json",
    "listeners": "/listeners",
    "config": "/config_dump",
    "stats": "/stats",
}


def proxy(lab: Lab, workload: str, view: str) -> str:
    """One view of a workload's proxy, as Envoy tells it."""
    backend = _backend_for(lab, workload)
    return backend.log(workload) if view == "log" else backend.admin(workload, _ADMIN[view]).decode()


def proxy_log(lab: Lab, workload: str) -> str:
    """The proxy's own log."""
    return _backend_for(lab, workload).log(workload)


def access_log(lab: Lab, workload: str) -> str:
    """The proxy's access log: a JSON object a line."""
    connection = _backend_for(lab, workload).connection(workload)
    return connection.run(["cat", f"/var/log/testbed/{workload}/access.log"], check=False).stdout.decode()


def _backend_for(lab: Lab, workload: str) -> Backend:
    workload_named(lab, workload)
    node = lab.topology.workload(workload).node
    require_up(lab, None if node in nodes_of(lab) else node)  # a pod may be on another
    return backend_of(lab)
