"""From file names to values: the only place where inventories and manifests are opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from testbed import log
from testbed.artifacts import Releases
from testbed.documents import MAX_BYTES, Document, parse, problems_of
from testbed.documents import Path as DocumentPath
from testbed.errors import BadInput, HostNotReady, Problem, bad_input
from testbed.host.directories import testbed_home
from testbed.hypervisor.connection import HypervisorError
from testbed.hypervisor.releases import kept_releases
from testbed.hypervisor.scaling import kept_scale
from testbed.lab.lab import Lab
from testbed.model.inventory import Inventory
from testbed.model.reading import check_fits, read_inventory


def load_lab(name: str) -> Lab:
    """The lab of an inventory: a file, or the name of one in ``inventories/``.  Raises BadInput, located."""
    path = find_inventory(name)
    text = read_text(path)
    inventory = read_inventory(text, shown(path))
    [document] = parse(text, shown(path))
    check_fits(inventory, document, host_memory(), shown(path))
    check_mesh_config(inventory, document)
    check_versions(inventory, document)
    lab = Lab(inventory, shown(path))
    hold_to_machines(lab)
    log.configure(lab.directories.log if lab.directories.state.is_dir() else None)
    return lab


def hold_to_machines(lab: Lab) -> None:
    """What the lab's machines know, which one that is down has not: as many instances as `scale` said last, and the
    releases that they were made with."""
    with suppress(HostNotReady, HypervisorError):  # whoever needs libvirt says so, with what to do
        hypervisor = lab.hypervisor_if_up()
        if hypervisor is not None:
            lab.hold_to(kept_scale(hypervisor))
            if lab.has_cluster and (kept := kept_releases(hypervisor)):
                lab.began_with = Releases(**kept)


def check_mesh_config(inventory: Inventory, document: Document) -> None:
    """Refuse settings of the mesh that Istio doesn't have or that are not supported, each with its place."""
    if not inventory.mesh.config:
        return
    from testbed.compiler.security import (
        MeshConfig,
    )  # half of what a command takes to start, for what few labs have

    try:
        MeshConfig.model_validate(inventory.mesh.config)
    except ValidationError as e:
        raise BadInput(list(problems_of(e, document, ("mesh", "config")))) from None


def check_versions(inventory: Inventory, document: Document) -> None:
    """Refuse minor versions that are not among those declared in ``constraints/releases.yaml``."""
    places: dict[str, tuple[str, DocumentPath]] = {
        "k3s": (inventory.cluster.version or "", ("cluster", "version")),
        "istio": (inventory.mesh.version or "", ("mesh", "version")),
    }
    if not any(version for version, _ in places.values()):
        return
    from testbed.artifacts import read_catalogue

    catalogue = read_catalogue()
    unknown = [
        Problem(
            document.locate(where),
            f"{product} {version} is not declared in constraints/releases.yaml",
            f"one of: {', '.join(catalogue.versions(product))}, or another patch release of these",
        )
        for product, (version, where) in places.items()
        if version and not catalogue.has(product, version)
    ]
    if unknown:
        raise BadInput(unknown)


def find_inventory(name: str) -> Path:
    """The file that ``name`` means: itself, else ``inventories/NAME.yaml`` of the working directory or ours."""
    candidates = [Path(name)]
    for home in (Path.cwd(), testbed_home()):
        candidates += [home / name, home / "inventories" / f"{name}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted(p.stem for p in (testbed_home() / "inventories").glob("*.yaml"))
    raise bad_input(name, "no such inventory", f"a file, or one of: {', '.join(known)}")


def read_text(path: Path) -> str:
    """A text file's content; BadInput when it can't be read, is too large, or is no text."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise bad_input(shown(path), f"the file has more than the {MAX_BYTES // 1024**2} MiB read", "split it")
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise bad_input(shown(path), f"cannot be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise bad_input(shown(path), "is not UTF-8 text") from None


def read_manifests(names: Iterable[str]) -> list[Document]:
    """All YAML documents of files and folders (every ``.yaml``, ``.yml`` and ``.json`` in them), in order."""
    documents: list[Document] = []
    for name in names:
        for path in manifest_files(name):
            documents += parse(read_text(path), shown(path))
    return documents


def manifest_files(name: str) -> Iterator[Path]:
    """The manifests that a name means: a file, or all in a folder.  Raises BadInput when there are none."""
    for path in (Path(name), testbed_home() / name):
        if path.is_file():
            yield path
            return
        if path.is_dir():
            files = [p for p in sorted(path.rglob("*")) if p.suffix in {".yaml", ".yml", ".json"}]
            if not files:
                raise bad_input(name, "the folder has no .yaml, .yml or .json file")
            yield from files
            return
    raise bad_input(name, "no such file or folder")


def shown(path: Path) -> str:
    """A path as people read it: relative to where they are, when it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def host_memory() -> int:
    """The host's memory in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 1 << 62
