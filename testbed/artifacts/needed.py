"""Which releases a lab is made from, and which of them its nodes see on the shared disk."""

from __future__ import annotations

from collections.abc import Mapping

from testbed.artifacts.catalogue import Artifact, Catalogue, read_catalogue
from testbed.model.inventory import Inventory


def needed(inventory: Inventory, catalogue: Catalogue | None = None) -> tuple[Artifact, ...]:
    """The releases that a lab is made from, beside Envoy, which every lab needs."""
    if inventory.mesh.backend != "istio":
        return ()
    found = catalogue or read_catalogue()
    k3s = inventory.cluster.version or found.default("k3s")
    istio = inventory.mesh.version or found.default("istio")
    return (*found.artifacts("k3s", k3s), *found.artifacts("istio", istio, inventory.mesh.mode))


def on_nodes(wanted: tuple[Artifact, ...]) -> Mapping[str, Artifact]:
    """Path on the shared disk -> artifact.  Not Istio's archive: istioctl runs on the lab host."""
    return {f"{a.product}/{a.name}": a for a in wanted if not a.name.endswith(".tar.gz")}
