"""The two disks that nodes of a lab have in common, known by their content's key before they are built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from testbed import artifacts
from testbed.host.directories import cache_root, testbed_home
from testbed.images import (
    NodeImage,
    base_image,
    build_image,
    build_shared,
    load_recipe,
    planned_base,
    planned_image,
    shared_key,
)
from testbed.images.packaged import PackagedImages, packaged_images, planned_packaged
from testbed.images.recipe import RecipeFolder
from testbed.images.samples import SamplesImage, planned_samples, samples_image
from testbed.images.unpacked import unpack_cluster
from testbed.model.clusters import image_packages
from testbed.model.inventory import Image, Inventory


def _sample_folders(home: Path) -> tuple[Path, Path]:
    return home / "images" / "samples", home / "images" / "shared" / "programs"


@dataclass(frozen=True)
class Disks:
    """Where nodes' disks come from.  Nothing is built before it is asked for."""

    image: Image
    home: Path
    cache: Path
    releases: Mapping[str, Path] = field(default_factory=dict)
    """Path on the shared disk -> the artifact in the cache."""
    samples: SamplesImage | None = None
    """The container image of the sample services, where there are containers."""
    packaged: PackagedImages | None = None
    """Those of k3s's own images that the lab uses."""
    packages: tuple[str, ...] = ()
    """What is put into the image beside the recipe's own."""

    @classmethod
    def of(cls, inventory: Inventory) -> Disks:
        """Those of an inventory, below the usual folders."""
        cache = cache_root()
        wanted = artifacts.needed(inventory)
        releases = artifacts.on_nodes(wanted)
        files = {place: cache / "artifacts" / artifact.path for place, artifact in releases.items()}
        home = testbed_home()
        samples, packaged = None, None
        if inventory.mesh.backend == "istio":
            samples = planned_samples(*_sample_folders(home), cache)
            files[artifacts.SAMPLES] = samples.archive
            archive = cache / "artifacts" / artifacts.k3s_archive(wanted).path
            packaged = planned_packaged(archive, inventory.cluster.components, cache)
            files[artifacts.K3S_IMAGES] = packaged.archive
        return cls(inventory.image, home, cache, files, samples, packaged, image_packages(inventory))

    @cached_property
    def recipe(self) -> RecipeFolder:
        """The image's recipe; for somebody else's base the one whose files are laid onto it."""
        folder = load_recipe(self.home / "images" / (self.image.recipe or "debian-12"))
        return folder.with_packages(self.packages)

    @property
    def node_image(self) -> NodeImage:
        """The image as it is, or will be once built or downloaded."""
        if self.image.recipe is not None:
            return planned_image(self.recipe, self.cache)
        return planned_base(self.image, self.cache, self.home)

    @property
    def has_image(self) -> bool:
        """Whether it is there."""
        return self.node_image.disk.exists()

    def build_image(self) -> None:
        """Build or download it unless the cache has it: about a minute."""
        if self.image.recipe is not None:
            build_image(self.recipe, self.cache)
        else:
            base_image(self.image, self.cache, self.home)

    @property
    def _shared_folder(self) -> Path:
        return self.home / "images" / "shared"

    @cached_property
    def _envoy(self) -> Path:
        return artifacts.planned_envoy(self.cache)

    @cached_property
    def shared(self) -> Path:
        """The read-only disk with Envoy and the guest programs."""
        return self.cache / "shared" / shared_key(self._envoy, self._shared_folder, self.releases) / "disk.raw"

    @property
    def has_shared(self) -> bool:
        """Whether the cache has it."""
        return self.shared.exists()

    def build_shared(self) -> None:
        """Build it unless the cache has it; fetches Envoy first, makes the archives of images and unpacks them."""
        if self.samples is not None:
            samples_image(*_sample_folders(self.home), self.cache)
        if self.packaged is not None:
            packaged_images(self.packaged)
        finish = unpack_cluster if self.packaged is not None else None
        build_shared(artifacts.envoy(self.cache), self._shared_folder, self.cache, self.releases, finish)
