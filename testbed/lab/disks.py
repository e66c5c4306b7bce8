"""The two disks that nodes of a lab have in common, known by their content's key before they are built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from testbed import artifacts
from testbed.host.directories import cache_root, testbed_home
from testbed.images import (
    NodeImage,
    build_image,
    build_shared,
    load_recipe,
    planned_image,
    shared_key,
)
from testbed.images.recipe import RecipeFolder
from testbed.model.inventory import Image


@dataclass(frozen=True)
class Disks:
    """Where nodes' disks come from.  Nothing is built before it is asked for."""

    image: Image
    home: Path
    cache: Path

    @classmethod
    def of(cls, image: Image) -> Disks:
        """Those of an inventory's ``image``, below the usual folders."""
        return cls(image, testbed_home(), cache_root())

    @cached_property
    def _recipe(self) -> RecipeFolder:
        return load_recipe(self.home / "images" / str(self.image.recipe))

    @cached_property
    def node_image(self) -> NodeImage:
        """The image as it is, or will be once built."""
        return planned_image(self._recipe, self.cache)

    @property
    def has_image(self) -> bool:
        """Whether the cache has the image."""
        return self.node_image.disk.exists()

    def build_image(self) -> None:
        """Build it unless the cache has it: about a minute."""
        build_image(self._recipe, self.cache)

    @cached_property
    def _envoy(self) -> Path:
        return artifacts.planned_envoy(self.cache)

    @cached_property
    def shared(self) -> Path:
        """The read-only disk with Envoy and the guest programs."""
        return self.cache / "shared" / shared_key(self._envoy, self.home / "images" / "shared") / "disk.raw"

    @property
    def has_shared(self) -> bool:
        """Whether the cache has it."""
        return self.shared.exists()

    def build_shared(self) -> None:
        """Build it unless the cache has it; fetches Envoy first."""
        build_shared(artifacts.envoy(self.cache), self.home / "images" / "shared", self.cache)
