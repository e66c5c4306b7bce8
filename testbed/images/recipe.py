"""A recipe: a folder of ``images/`` that says what a node's disk is made of."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from testbed import documents
from testbed.errors import BadInput, bad_input
from testbed.model.inventory import Size
from testbed.model.proxy import content_hash

_PACKAGE = r"^[a-z0-9][a-z0-9+.-]+$"
_UNIT = r"^[A-Za-z0-9@:_.\\-]+\.(service|socket|target|timer|mount|automount|path)$"

Package = Annotated[str, Field(pattern=_PACKAGE)]
Unit = Annotated[str, Field(pattern=_UNIT)]


class Recipe(BaseModel):
    """``recipe.yaml``.  The guest's release is named here, so it is the same on every host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    release: str = Field(pattern=r"^[a-z]+$")
    kernel: Package
    size: Size = 3 * 1024**3
    packages: list[Package]
    exclude: list[str] = []
    """Path patterns (dpkg's ``--path-exclude``) that no package may install."""
    users: dict[str, int] = {}
    """System users, each with a group of the same name and number."""
    initrd: list[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]]
    """Kernel modules loaded before the root disk is mounted; what they depend on comes by itself."""
    enable: dict[Unit, list[Unit]] = {}
    """Units wanted by each target, beyond what packages enable."""
    mask: list[Unit] = []
    mask_generators: list[str] = []


@dataclass(frozen=True)
class RecipeFile:
    """A file laid into the image; ``path`` is relative to the root."""

    path: str
    content: bytes
    executable: bool = False


@dataclass(frozen=True)
class RecipeFolder:
    """A recipe with everything beside it."""

    name: str
    recipe: Recipe
    files: tuple[RecipeFile, ...]
    init: bytes
    """The initrd's program."""

    def with_packages(self, packages: Sequence[str]) -> RecipeFolder:
        """The same with more packages; itself, and so of the same key, without any."""
        if not packages:
            return self
        more = sorted({*self.recipe.packages, *packages})
        return replace(self, recipe=self.recipe.model_copy(update={"packages": more}))

    @property
    def key(self) -> str:
        """The content hash that names the built image."""
        parts: list[str | bytes] = [self.recipe.model_dump_json(), self.init]
        for file in self.files:
            parts += [file.path, str(file.executable), file.content]
        return content_hash(*parts)


def load_recipe(folder: Path) -> RecipeFolder:
    """Read ``folder`` (``recipe.yaml``, ``init``, ``files/``).  Raises :class:`BadInput`, located."""
    path = folder / "recipe.yaml"
    try:
        found = documents.parse(path.read_text(), str(path))
        init = (folder / "init").read_bytes()
    except (OSError, UnicodeDecodeError) as e:
        if isinstance(e, BadInput):
            raise
        known = ", ".join(sorted(p.parent.name for p in folder.parent.glob("*/recipe.yaml"))) or "none"
        raise bad_input(str(path), f"no recipe can be read here: {e}", f"recipes there are: {known}") from None
    if len(found) != 1:
        raise bad_input(str(path), f"expected one document, found {len(found)}", "see images/debian-12/recipe.yaml")
    recipe = documents.validate(Recipe, found[0])
    return RecipeFolder(folder.name, recipe, tuple(tree(folder / "files")), init)


def tree(folder: Path) -> Iterator[RecipeFile]:
    """Every file below ``folder``, in a fixed order; Python's caches and editors' leavings are left out."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and "__pycache__" not in relative.parts and not path.name.endswith(("~", ".pyc")):
            executable = bool(path.stat().st_mode & stat.S_IXUSR)
            yield RecipeFile(relative.as_posix(), path.read_bytes(), executable)
