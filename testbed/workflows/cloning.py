"""Templates in the cache: which nodes of a lab can start from one, and making those that are missing."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from testbed.errors import LabBusy, LabError
from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories, cache_root, existing_labs
from testbed.host.finding import Level
from testbed.host.lock import hold, holder
from testbed.host.probes import capacity
from testbed.lab.lab import Lab
from testbed.lab.machines import Machines
from testbed.lab.snapshots import Cloning, Snapshot, template_store
from testbed.lab.snapshots.store import checksums
from testbed.lab.snapshots.templates import ID, NODE, boot_template, save_template, template_lab
from testbed.model.proxy import content_hash
from testbed.model.snapshot import Manifest, misfit
from testbed.resources import ResourceSet
from testbed.workflows.identity import Identity, identity_of
from testbed.workflows.planning import machines_of

MAKE_LIMIT = 300.0
"""Seconds to wait for another lab that makes the same template."""
TEMPLATE_LIMIT = 2 * 2**30
"""Bytes of templates that the cache keeps."""


@dataclass(frozen=True)
class Templates:
    """What the cache has for the nodes of a lab."""

    fitting: Mapping[str, Snapshot] = field(default_factory=dict)
    """Node -> the template that it can start from."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Node -> the first one of its kind, of kinds that have no such template and several new nodes: making it and
    starting all from it takes less time than booting them side by side."""
    why_not: str = ""
    """Why a template that is there for such hardware is of no use; empty when there is none, or all are."""


def has_templates(lab: Lab) -> bool:
    """Whether nodes of such labs can start from templates."""
    inventory = lab.inventory
    return lab.private and inventory.mesh.backend == "standalone" and inventory.image.recipe is not None


def templates_of(lab: Lab, new: Collection[str]) -> Templates:
    """What the cache has for the ``new`` nodes of this lab, on this host."""
    if not has_templates(lab):
        return Templates()
    found = template_store().all()
    fitting: dict[str, Snapshot] = {}
    missing: dict[str, str] = {}
    why_not = ""
    for home, nodes in _homes(lab, new):
        candidates = [s for s in found if s.manifest.lab == home.id]
        identity = _identity(home, machines_of(home)) if candidates else None
        for snapshot in candidates:
            assert identity is not None  # noqa: S101  (there are candidates)
            why = misfit(snapshot.manifest, identity.base, identity.emulated, identity.media)
            if not why:
                fitting |= dict.fromkeys(nodes, snapshot)
                break
            why_not = why_not or f"template {snapshot.manifest.name}: {why}"
        else:
            missing |= dict.fromkeys(nodes if len(nodes) > 1 else (), nodes[0])
    return Templates(fitting, missing, why_not if len(fitting) + len(missing) < len(new) else "")


def make_template(cloning: Cloning, templates: Templates, first: str, cancel: threading.Event) -> None:
    """Make the template of the kind whose first new node is ``first``, for all new ones of the kind to start from.

    Where that fails they are booted.
    """
    nodes = [node for node, kind in templates.missing.items() if kind == first]
    [(home, _)] = _homes(cloning.lab, [first])
    try:
        clear_interrupted()
        made: Snapshot | LabError = _make(home, cancel)
    except LabError as e:
        made = e
    except OSError as e:
        made = LabError(home.id, "make a template", str(e), "nothing: machines are booted then")
    cloning.made(nodes, made)
    template_store().evict(TEMPLATE_LIMIT)


def clear_interrupted() -> None:
    """Remove what is left of templates whose making was killed."""
    for directories in existing_labs():
        if directories.lab_id.startswith(ID) and holder(directories) is None:
            # another lab may make one there again, or remove it, since
            with suppress(LabBusy), hold(directories, "remove what is left of a template", limit=0):
                _remove(directories)


def _homes(lab: Lab, new: Collection[str]) -> list[tuple[Lab, list[str]]]:
    """The lab of each kind of machine's template, and the new nodes of that kind."""
    kinds: dict[str, tuple[Lab, list[str]]] = {}
    for node in lab.inventory.nodes:
        if node.name in new:
            home = template_lab(lab, node)
            kinds.setdefault(home.id, (home, []))[1].append(node.name)
    return list(kinds.values())


def _identity(home: Lab, machines: Machines) -> Identity:
    """With the content of the disks that a template has mounted, and parts of in its memory."""
    identity = identity_of(home, machines, ResourceSet())
    base = content_hash(identity.base, identity.media)
    return Identity(base, base, identity.emulated, identity.media)


def _make(home: Lab, cancel: threading.Event) -> Snapshot:
    machines = machines_of(home)
    identity = _identity(home, machines)
    size = home.inventory.nodes[0].memory
    for finding in capacity.probe(size, size, cache_root()):
        if finding.level is not Level.OK:
            raise LabError(finding.name, "make a template", finding.detail, "nothing: machines are booted then")
    name = f"{home.id}-{identity.base[:16]}"
    command = "testbed up: make a template"
    with home.closing(), hold(home.directories, command, limit=MAKE_LIMIT, cancel=cancel):
        if (made := template_store().find(name)) is not None:  # another lab has made it meanwhile
            return made
        try:
            home.directories.create()
            home.daemon.start()
            boot_template(machines, cancel)
            with template_store(home.id).saving(name, size) as (folder, complete):
                disks = save_template(machines, folder)
                return complete(
                    Manifest(
                        lab=home.id,
                        name=name,
                        saved=datetime.now(UTC),
                        base=identity.base,
                        key=identity.key,
                        emulated=identity.emulated,
                        media=identity.media,
                        inventory=home.inventory.model_dump_json(by_alias=True),
                        resources="",
                        revision="",
                        nodes=(NODE,),
                        disks=disks,
                        pause=0.0,
                        files=checksums(folder, [p.name for p in folder.iterdir()]),
                    )
                )
        finally:
            home.close()
            _remove(home.directories)


def _remove(directories: LabDirectories) -> None:
    home = PrivateDaemon(directories.lab_id, directories)
    home.stop()
    directories.remove()
