"""Which releases there are to choose from: ``constraints/releases.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from testbed.documents import parse, validate
from testbed.errors import Location, bad_input

RELEASES = Path(__file__).parents[2] / "constraints" / "releases.yaml"

Mode = Literal["sidecar", "ambient"]


@dataclass(frozen=True)
class Artifact:
    """One file of a release, or one container image, which is kept as an archive of docker's format."""

    product: str
    version: str
    name: str
    address: str
    """Where its project publishes it: an address, or an image's reference."""
    sums: str
    """Name of the file of SHA-256 sums that lies beside it."""
    is_image: bool = False
    keys: tuple[str, ...] = ()
    """Addresses of its project's public keys: an image is signed with one of them.  None: it is not signed."""

    @property
    def path(self) -> str:
        """Where it lies in a mirror and in the cache."""
        return f"{self.product}/{self.version}/{self.name}"

    @property
    def sums_path(self) -> str:
        """Where its sums lie."""
        return f"{self.product}/{self.version}/{self.sums}"

    @property
    def sums_address(self) -> str:
        """Where its project publishes the sums; empty for an image, whose registry gives digests instead."""
        return "" if self.is_image else self.address.rpartition("/")[0] + "/" + self.sums


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _File(_Model):
    name: str
    sums: str
    address: str = Field("", pattern=r"^(https://.*\{file\}.*)?$")


class _Image(_Model):
    name: str
    image: str
    mode: Mode | None = None
    """The mesh mode that needs it; none: every one."""


class _Product(_Model):
    default: str
    versions: Annotated[list[str], Field(min_length=1)]
    address: str = Field(pattern=r"^https://.*\{file\}.*$")
    files: list[_File]
    images: list[_Image] = []
    keys: list[Annotated[str, Field(pattern="^https://")]] = []
    """Public keys that its images are signed with, by Cosign."""


class _Releases(_Model):
    k3s: _Product
    istio: _Product


@dataclass(frozen=True)
class Catalogue:
    """The releases, by product."""

    file: str
    _products: Mapping[str, _Product]

    def versions(self, product: str) -> tuple[str, ...]:
        """Versions of ``product`` (``k3s``, ``istio``), oldest first."""
        return tuple(self._products[product].versions)

    def has(self, product: str, version: str) -> bool:
        """Whether it is declared, or another patch release of a minor version that is."""
        return version.rpartition(".")[0] in {v.rpartition(".")[0] for v in self._products[product].versions}

    def default(self, product: str) -> str:
        """The version for who names none."""
        return self._products[product].default

    def artifacts(self, product: str, version: str, mode: Mode = "ambient") -> tuple[Artifact, ...]:
        """All of one release that a mesh in ``mode`` needs; ``ambient`` needs the most."""
        found = self._products[product]
        values = {"version": version}
        files = [_file(product, version, found, f) for f in found.files]
        images = [
            Artifact(
                product,
                version,
                i.name,
                i.image.format(**values),
                f"{i.name}.sha256",
                is_image=True,
                keys=tuple(found.keys),
            )
            for i in found.images
            if i.mode in (None, mode)
        ]
        return (*files, *images)


def _file(product: str, version: str, found: _Product, file: _File) -> Artifact:
    name = file.name.format(version=version)
    # k3s's versions have a plus sign, which a server may take for a space
    address = (file.address or found.address).format(version=quote(version, safe=""), file=quote(name))
    return Artifact(product, version, name, address, file.sums.format(version=version))


def read_catalogue(path: Path = RELEASES) -> Catalogue:
    """The catalogue in ``path``.  Raises :class:`BadInput`, located, when a default is not among its versions."""
    [document] = parse(path.read_text(), str(path))
    releases = validate(_Releases, document)
    products = {"k3s": releases.k3s, "istio": releases.istio}
    for name, product in products.items():
        if product.default not in product.versions:
            where: Location = document.locate((name, "default"))
            raise bad_input(where, f"{product.default} is none of the versions", "list it, or choose another")
    return Catalogue(str(path), products)
