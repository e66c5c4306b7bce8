"""The container image of the sample services: Debian's Python below, the programs of ``images/shared`` on top.

mmdebstrap makes the tree and umoci the image, so no daemon and no root are needed.  What comes out is an archive in
docker's format, which containerd, podman and docker take.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from testbed import documents
from testbed.errors import LabError, bad_input
from testbed.images.build import Progress, building, mmdebstrap, require, tar_of
from testbed.images.recipe import Package, RecipeFile, tree
from testbed.model.proxy import content_hash

_REPOSITORY = "testbed.dev/samples"
_PROGRAMS = "opt/testbed/programs"
_PYTHON = ("/usr/bin/python3", "-S", "-E", "-B")
"""As nodes start them."""

_VERSION = "1"
"""Part of every key: raise it when this file makes something else of the same recipe."""


class SamplesRecipe(BaseModel):
    """``images/samples/recipe.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    release: str = Field(pattern=r"^[a-z]+$")
    packages: list[Package]
    exclude: list[str] = []
    """Path patterns (dpkg's ``--path-exclude``) that no package may install."""
    user: int = Field(gt=0)
    """Number of the user, and of the group, that programs run as."""


@dataclass(frozen=True)
class SamplesImage:
    """The image as an archive; its name changes with its content, so that one that is there is never an old one."""

    archive: Path
    reference: str
    """Its name in a container runtime, ``REPOSITORY:KEY``."""


def planned_samples(folder: Path, programs: Path, cache: Path) -> SamplesImage:
    """The image as it is, or will be once built."""
    return _planned(_read(folder / "recipe.yaml"), _programs(programs), cache)


def _programs(folder: Path) -> tuple[RecipeFile, ...]:
    return tuple(RecipeFile(f"{_PROGRAMS}/{f.path}", f.content, f.executable) for f in tree(folder))


def _base_key(recipe: SamplesRecipe) -> str:
    return content_hash(_VERSION, recipe.model_dump_json(exclude={"user"}))


def _planned(recipe: SamplesRecipe, files: Sequence[RecipeFile], cache: Path) -> SamplesImage:
    parts = (part for f in files for part in (f.path, f.content))
    key = content_hash(_base_key(recipe), str(recipe.user), *parts)
    return SamplesImage(cache / "samples" / key / "samples.tar", f"{_REPOSITORY}:{key}")


def samples_image(
    folder: Path, programs: Path, cache: Path, progress: Progress = lambda stage: None
) -> SamplesImage:
    """The image of ``folder`` (``images/samples``) and ``programs``, built unless ``cache`` has it.

    A changed program costs seconds, another package a minute.  Raises :class:`BadInput`, located, for the recipe,
    :class:`HostNotReady` when a tool is missing, and :class:`LabError` with a tool's last words.
    """
    recipe = _read(folder / "recipe.yaml")
    files = _programs(programs)
    image = _planned(recipe, files, cache)
    with building(image.archive.parent) as work:
        if work is not None:
            require("umoci", "skopeo", advice="apt-get install umoci skopeo")
            tree_archive = _base(recipe, cache / "samples-base" / _base_key(recipe), progress)
            progress("image")
            (work / "programs.tar").write_bytes(tar_of(files))
            _pack(work, (tree_archive, work / "programs.tar"), recipe.user, image.reference)
    return image


def _read(path: Path) -> SamplesRecipe:
    try:
        [document] = documents.parse(path.read_text(), str(path))
    except (OSError, ValueError) as e:
        raise bad_input(str(path), f"no recipe can be read here: {e}") from None
    return documents.validate(SamplesRecipe, document)


def _base(recipe: SamplesRecipe, target: Path, progress: Progress) -> Path:
    with building(target) as work:
        if work is not None:
            require("mmdebstrap")
            progress("packages")
            options = ["--variant=essential", f"--include={','.join(recipe.packages)}"]
            options += [f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.exclude]
            mmdebstrap("image samples", options, recipe.release, work / "base.tar", work)
    return target / "base.tar"


def _pack(work: Path, layers: Sequence[Path], user: int, reference: str) -> None:
    layout = work / "layout"
    image = f"{layout}:samples"
    _run("umoci", "init", "--layout", str(layout))
    _run("umoci", "new", "--image", image)
    for layer in layers:
        _run("umoci", "raw", "add-layer", "--image", image, str(layer))
    # what a container is told beside is its program; echo is for who tells none
    settings = [f"--config.entrypoint={word}" for word in _PYTHON]
    settings += [
        f"--config.user={user}:{user}",
        "--config.env=PATH=/usr/bin:/bin",
        f"--config.cmd=/{_PROGRAMS}/echo.py",
    ]
    _run("umoci", "config", "--image", image, *settings)
    _run("skopeo", "copy", "--quiet", f"oci:{image}", f"docker-archive:{work / 'samples.tar'}:{reference}")
    shutil.rmtree(layout)
    layers[-1].unlink()


def _run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        cause = said[-1] if said else f"{argv[0]} ended with status {done.returncode}"
        raise LabError("image samples", f"{argv[0]} {argv[1]}", cause)
