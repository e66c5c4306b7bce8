"""Which releases a lab is made from, and which of them its nodes see on the shared disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from testbed.artifacts.catalogue import Artifact, Catalogue, read_catalogue
from testbed.model.inventory import Inventory


@dataclass(frozen=True)
class Releases:
    """The versions of what a cluster consists of."""

    k3s: str
    istio: str


def releases_of(inventory: Inventory, catalogue: Catalogue | None = None) -> Releases:
    """Those that the inventory names, else the defaults."""
    found = catalogue or read_catalogue()
    return Releases(
        inventory.cluster.version or found.default("k3s"), inventory.mesh.version or found.default("istio")
    )


def with_releases(inventory: Inventory, releases: Releases) -> Inventory:
    """The same inventory, had it named these."""
    cluster = inventory.cluster.model_copy(update={"version": releases.k3s})
    mesh = inventory.mesh.model_copy(update={"version": releases.istio})
    return inventory.model_copy(update={"cluster": cluster, "mesh": mesh})


def needed(inventory: Inventory, catalogue: Catalogue | None = None) -> tuple[Artifact, ...]:
    """The releases that a lab is made from, beside Envoy, which every lab needs."""
    if inventory.mesh.backend != "istio":
        return ()
    found = catalogue or read_catalogue()
    releases = releases_of(inventory, found)
    return (
        *found.artifacts("k3s", releases.k3s),
        *found.artifacts("istio", releases.istio, inventory.mesh.mode),
    )


SAMPLES = "samples/samples.tar"
"""Where the shared disk has the image of the sample services, which is built and not released."""

K3S_IMAGES = "k3s/k3s-images.tar"
"""Where it has those of k3s's own images that the lab uses, picked from the release's archive."""

_K3S_ARCHIVE = "k3s-airgap-images-amd64.tar.zst"


def on_nodes(wanted: tuple[Artifact, ...]) -> Mapping[str, Artifact]:
    """Path on the shared disk -> artifact.  Neither Istio's archive, as istioctl runs on the lab host, nor k3s's
    images, of which nodes get a part."""
    return {f"{a.product}/{a.name}": a for a in wanted if not a.name.endswith(".tar.gz") and a.name != _K3S_ARCHIVE}


def k3s_archive(wanted: tuple[Artifact, ...]) -> Artifact:
    """The release's archive of k3s's own images.  Raises :class:`ValueError` when it is not among ``wanted``."""
    [archive] = (a for a in wanted if a.name == _K3S_ARCHIVE)
    return archive
