"""The cluster that an inventory describes, as a plan needs to know it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType

from testbed.artifacts import Catalogue, Releases, read_catalogue, releases_of
from testbed.backends.istio.installing import operator
from testbed.backends.istio.manifests import objects
from testbed.backends.istio.revisions import revision_of
from testbed.deploy.files import UnitFiles
from testbed.deploy.k3s import k3s_files
from testbed.deploy.keepalived import keepalived_files
from testbed.deploy.registries import RegistriesAccess
from testbed.host.directories import cache_root, testbed_home
from testbed.images.samples import SamplesImage, planned_samples
from testbed.model.inventory import Inventory, Node
from testbed.model.proxy import content_hash
from testbed.model.reading import topology_of
from testbed.plan import WantedCluster
from testbed.workflows.bringing import newer

CONTROL_PLANE, PODS = "control-plane", "pods"
"""Parts of what is installed in the cluster, as it keeps their digests."""


def wanted_cluster(
    inventory: Inventory, registries: RegistriesAccess = MappingProxyType({}), began: Releases | None = None
) -> WantedCluster | None:
    """What shall be on each node and in the cluster; None for a backend without one.

    ``began``: the releases that the machines were made with, where these may be others.  The token for joining is
    no part of it: it is made with the lab, and a plan makes nothing.
    """
    if inventory.mesh.backend != "istio":
        return None
    catalogue = read_catalogue()
    servers, agents = inventory.servers(), inventory.agents()
    version = istio_version(inventory, catalogue)
    # as it is installed, whichever proxy the release brings
    settings = json.dumps(operator(inventory, version, plain_envoy=True), sort_keys=True)
    return WantedCluster(
        servers=tuple(n.name for n in servers),
        agents=tuple(n.name for n in agents),
        nodes={n.name: node_digest(inventory, n, registries, began) for n in (*servers, *agents)},
        control_plane=content_hash(inventory.mesh.mode, settings),
        pods=content_hash(json.dumps(cluster_objects(inventory), sort_keys=True)),
        k3s=releases_of(inventory, catalogue).k3s,
        brought=newer(inventory, began),
        revision=revision_of(version),
    )


def istio_version(inventory: Inventory, catalogue: Catalogue | None = None) -> str:
    """Of the lab's Istio."""
    return releases_of(inventory, catalogue).istio


@dataclass(frozen=True)
class ClusterSecrets:
    """What nodes are told and nobody else; empty where only what is no secret counts."""

    token: str = field(default="", repr=False)
    """For joining."""
    address: str = field(default="", repr=False)
    """By which servers know each other when the API's address moves."""


def node_units(
    inventory: Inventory,
    node: Node,
    secrets: ClusterSecrets,
    registries: RegistriesAccess,
    began: Releases | None = None,
) -> tuple[UnitFiles, ...]:
    """What the cluster has on a node: k3s, and on one of several servers what moves the API's address.

    ``began``: the releases that its machine was made with, where these may be others.
    """
    version = releases_of(inventory).k3s
    brought = version if began is not None and began.k3s != version else ""
    k3s = k3s_files(inventory, node, secrets.token, registries, brought)
    if node.cluster == "server" and len(inventory.servers()) > 1:
        return k3s, keepalived_files(inventory, node, secrets.address)
    return (k3s,)


def node_digest(
    inventory: Inventory, node: Node, registries: RegistriesAccess, began: Releases | None = None
) -> str:
    """Content hash of that, without the lab's secrets, and of k3s's version."""
    units = node_units(inventory, node, ClusterSecrets(), registries, began)
    return content_hash(releases_of(inventory).k3s, *(unit.digest for unit in units))


def cluster_objects(inventory: Inventory) -> list[dict[str, object]]:
    """The services and workloads as the cluster gets them."""
    revision = revision_of(istio_version(inventory))
    return objects(inventory, topology_of(inventory), _samples().reference, revision)


def _samples() -> SamplesImage:
    images = testbed_home() / "images"
    return planned_samples(images / "samples", images / "shared" / "programs", cache_root())
