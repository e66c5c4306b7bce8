"""Istio manifests on their own: lint, migrate, and where a request would go.  No lab has to be up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from testbed.compiler import compile_mesh
from testbed.compiler.simulator import Explanation, explain, parse_request
from testbed.lab.lab import Lab
from testbed.resources import ResourceSet, load
from testbed.resources.linting import Finding, lint_documents
from testbed.resources.migration import Migration, migrate
from testbed.workflows.loading import manifest_files, read_manifests, read_text, shown
from testbed.workflows.mesh import backend_of, default_resources, security_of
from testbed.workflows.registries import registries_access


def lint_files(lab: Lab, names: Iterable[str]) -> list[Finding]:
    """What is wrong, or likely not meant, in files and folders, read against the lab's services and workloads.

    Raises BadInput when what the inventory names for its private registries can't be used.
    """
    registries_access(lab.inventory, lab.file)
    return lint_documents(read_manifests(names), lab.topology)


def migrate_files(names: Iterable[str]) -> list[tuple[Path, Migration]]:
    """Every file with its migration, changed or not.  Writes nothing."""
    files = [path for name in names for path in manifest_files(name)]
    return [(path, migrate(read_text(path), shown(path))) for path in files]


def write_migration(path: Path, migration: Migration) -> None:
    """Replace the file's text, by rename; its mode stays."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(migration.text, encoding="utf-8")
    part.chmod(path.stat().st_mode)
    part.rename(path)


def explain_request(
    lab: Lab, source: str, url: str, *, method: str, headers: Sequence[str], files: Sequence[str]
) -> Explanation:
    """Where a request would go: by ``files``, else by what the lab has if it is up, else by the inventory's."""
    request = parse_request(source, url, method, headers, time.time())
    resources = load(read_manifests(files)) if files else _current(lab)
    compiled = compile_mesh(resources, lab.topology, security=security_of(lab))
    return explain(compiled, lab.topology, resources, request)


def _current(lab: Lab) -> ResourceSet:
    defaults = default_resources(lab)
    hypervisor = lab.hypervisor_if_up()
    if hypervisor is None or not hypervisor.machines():
        return defaults
    applied = backend_of(lab).applied()
    # what came from a file of ours is shown at its place there, not in the copy that the lab keeps
    same = {r.key: r for r in defaults}
    return ResourceSet(same[r.key] if same.get(r.key) == r else r for r in applied)
