"""Scenario files and the resources that they bring along: the reading of files."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.documents import Document, dotted, parse
from testbed.errors import BadInput, Location, bad_input
from testbed.model.scenario import Given, Scenario, scenario_document, scenario_of
from testbed.resources import Key, ResourceSet, load

SCENARIOS = Path(__file__).parents[2] / "playbooks" / "scenarios"


@dataclass(frozen=True)
class ScenarioFile:
    """A scenario with its place, which its resource files are relative to."""

    path: Path
    scenario: Scenario
    document: Document | None = field(default=None, repr=False, compare=False)
    """Where each field stands in the file; None for what was written as Python values."""

    def locate(self, path: tuple[str | int, ...]) -> Location:
        """The place of a field."""
        return self.document.locate(path) if self.document else Location(str(self.path), field=dotted(path))


def read_file(path: Path) -> ScenarioFile:
    """One scenario.  Raises :class:`~testbed.errors.BadInput`."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, "strerror", None) or "not a text file"
        raise bad_input(str(path), f"cannot be read: {reason}", "testbed verify --list shows them") from None
    document = scenario_document(text, str(path))
    return ScenarioFile(path, scenario_of(document), document)


def find(wanted: Sequence[str], folder: Path = SCENARIOS) -> list[ScenarioFile]:
    """Scenarios by file, folder, name or tag, in that order of trying.

    None wanted: all of ``folder`` by name, but for those that break machines, which have to be asked for.

    A file of ``folder`` that is wrong is in nobody's way who names another scenario; by tag, or for all of them,
    it can't be left out in silence.  Raises :class:`~testbed.errors.BadInput` for it, and for a word that is
    none of these.
    """
    if not wanted:
        return [f for f in _in_folder(folder) if not f.scenario.breaks_machines]
    found: dict[Path, ScenarioFile] = {}
    for word in wanted:
        path = Path(word)
        if path.is_dir():
            hits = _in_folder(path)
        elif path.suffix in (".yaml", ".yml", ".json") or path.is_file():
            hits = [read_file(path)]
        else:
            hits = _named(word, folder) or _tagged(word, folder)
        found |= {f.path: f for f in hits}
    return list(found.values())


def _in_folder(folder: Path) -> list[ScenarioFile]:
    return [read_file(p) for p in sorted(folder.rglob("*.yaml"))]


def _named(name: str, folder: Path) -> list[ScenarioFile]:
    """The scenario of that name: the file called so, else whichever says so."""
    own = next(folder.rglob(f"{glob.escape(name)}.yaml"), None)
    if own is not None and (file := read_file(own)).scenario.name == name:
        return [file]
    readable = []
    for path in sorted(folder.rglob("*.yaml")):
        with suppress(BadInput):
            readable.append(read_file(path))
    return [f for f in readable if f.scenario.name == name]


def _tagged(tag: str, folder: Path) -> list[ScenarioFile]:
    shipped = _in_folder(folder)
    if hits := [f for f in shipped if tag in f.scenario.tags]:
        return hits
    tags = sorted({t for f in shipped for t in f.scenario.tags})
    hint = f"names: {', '.join(f.scenario.name for f in shipped)}; tags: {', '.join(tags)}"
    raise bad_input(tag, "no scenario file, name or tag is called so", hint)


def given_resources(given: Given, path: Path) -> ResourceSet:
    """The resources of a ``given``, files and manifests, checked."""
    documents: list[Document] = []
    for entry in given.resources:
        if isinstance(entry, str):
            documents += _documents(path.parent / entry)
        else:
            documents += _inline(entry, path)
    return load(documents)


def removed_keys(given: Given, base: ResourceSet, path: Path) -> list[Key]:
    """The keys in ``base`` that ``given.remove`` names.  Raises BadInput for one that isn't there."""
    named = {str(resource.key): resource.key for resource in base}
    for name in given.remove:
        if name not in named:
            raise bad_input(str(path), f"given.remove: the lab has no {name}", f"it has: {', '.join(named)}")
    return [named[name] for name in given.remove]


def _documents(path: Path) -> list[Document]:
    files = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
    documents: list[Document] = []
    for file in files:
        try:
            documents += parse(file.read_text(), str(file))
        except OSError as e:
            raise bad_input(
                str(file), f"cannot be read: {e.strerror}", "paths are relative to the scenario"
            ) from None
    return documents


def _inline(manifest: dict[str, Any], path: Path) -> list[Document]:
    return parse(json.dumps(manifest), f"{path} (given.resources)")
