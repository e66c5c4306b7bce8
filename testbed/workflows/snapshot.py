"""Snapshots of a whole lab: save, restore, list, delete; and what `up` and `reset` take from the cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from testbed import log
from testbed.artifacts import Releases, releases_of
from testbed.compiler import compile_mesh
from testbed.errors import LabError, bad_input
from testbed.faults import network
from testbed.faults.breaking import Breaker
from testbed.host.directories import cache_root
from testbed.host.lock import hold
from testbed.hypervisor.scaling import keep_scale
from testbed.lab.executor import execute
from testbed.lab.lab import Lab
from testbed.lab.machines import Machines
from testbed.lab.observing import observe_remains
from testbed.lab.snapshots import (
    Media,
    Restoring,
    Snapshot,
    SnapshotStore,
    cache_store,
    export,
    import_,
    named_store,
    save_machines,
    template_store,
)
from testbed.lab.snapshots.store import checksums, evict
from testbed.model.proxy import content_hash
from testbed.model.snapshot import Manifest, misfit, run_out, unlike
from testbed.plan import Plan, plan_restore, plan_save, plan_up
from testbed.plan.steps import Action, SaveLab
from testbed.resources import ResourceSet, dump
from testbed.workflows.cloning import Templates, templates_of
from testbed.workflows.identity import Identity, identity_of, media_of
from testbed.workflows.loading import hold_to_machines
from testbed.workflows.mesh import backend_of, default_resources, security_of
from testbed.workflows.nodes import require_up
from testbed.workflows.performing import Performer
from testbed.workflows.planning import look, machines_of, wanted
from testbed.workflows.showing import Show
from testbed.workflows.timeline import Timeline

CACHE_LIMIT = 10 * 2**30
"""Bytes of labs that the cache keeps."""


@dataclass(frozen=True)
class RestoreReport:
    """What a restore did.  Times in seconds."""

    lab: Lab
    snapshot: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Step -> seconds."""
    ended: Mapping[str, float] = field(default_factory=dict)
    """Step -> seconds from the start to its end."""
    total: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "lab": self.lab.id,
            "snapshot": self.snapshot,
            "steps": dict(self.seconds),
            "ended": dict(self.ended),
            "seconds": round(self.total, 2),
        }


def has_snapshots(lab: Lab) -> bool:
    """Whether there are snapshots of such labs: those with a daemon of their own."""
    return lab.private


def require_snapshots(lab: Lab) -> None:
    """Raise BadInput when there are no snapshots of such labs."""
    if not lab.private:
        uri = lab.inventory.hosts[0].uri
        raise bad_input(lab.file, f"no snapshots of labs on {uri}", "a lab has them with `uri: auto`, as root")


def save(lab: Lab, name: str, show: Show) -> Snapshot:
    """Save the whole lab under ``name``; its machines go on.  Raises BadInput when the name is taken."""
    require_snapshots(lab)
    require_up(lab)
    if broken := Breaker(lab).standing():
        what = "; ".join(s.fault.title for s in broken)
        raise LabError(lab.id, "save it", f"a fault stands: {what}", "testbed fault clear ends it")
    store = named_store(lab.id)
    if store.find(name) is not None:
        raise bad_input(name, "there is a snapshot of that name", "delete it first, or take another name")
    with hold(lab.directories, f"testbed snapshot save -i {lab.file}"):
        machines = machines_of(lab)
        identity = identity_of(lab, machines, default_resources(lab))
        return _save(lab, machines, store, name, identity, _asked(lab), show)


@dataclass(frozen=True)
class _InMesh:
    """What is in the mesh of a lab that is about to be saved."""

    resources: ResourceSet
    revision: str
    verified: str = ""
    """The scenario that has just passed."""


def _asked(lab: Lab) -> _InMesh:
    """Asked of the nodes.  Raises LabError when not every proxy is in force."""
    backend = backend_of(lab)
    states = backend.states()
    late = [s.summary for s in states if not s.in_force]
    if late:
        raise LabError(lab.id, "save it", late[0], "a snapshot is of a lab that is well: see testbed status")
    revision = content_hash(*(part for s in states for part in (s.workload, s.revision_wanted)))
    return _InMesh(backend.applied(), revision)


def _known(lab: Lab, resources: ResourceSet) -> _InMesh:
    """Of a lab that was verified a moment ago with ``resources``: no node has to be asked, but for a cluster, whose
    revisions are counted there."""
    if lab.has_cluster:
        return replace(_asked(lab), verified=lab.inventory.mesh.scenario or "")
    compiled = compile_mesh(resources, lab.topology, security=security_of(lab))
    revision = content_hash(*(part for name in sorted(compiled) for part in (name, compiled[name].revision)))
    return _InMesh(resources, revision, lab.inventory.mesh.scenario or "")


def _save(
    lab: Lab, machines: Machines, store: SnapshotStore, name: str, identity: Identity, in_mesh: _InMesh, show: Show
) -> Snapshot:
    """Save the lab into ``store``, shown as a step.  The caller holds the lab's lock."""
    made: list[Snapshot] = []

    def perform(action: Action, cancel: threading.Event) -> None:
        del cancel
        assert isinstance(action, SaveLab)  # noqa: S101  (the plan has no other step)
        with store.saving(name, _needed(lab)) as (folder, complete):
            saved = save_machines(lab, folder, machines.disks.node_image.format)
            files = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
            manifest = Manifest(
                lab=lab.id,
                name=name,
                saved=datetime.now(UTC),
                base=identity.base,
                key=identity.key,
                emulated=identity.emulated,
                media=identity.media,
                inventory=lab.inventory.model_dump_json(by_alias=True),
                resources=dump(in_mesh.resources),
                revision=in_mesh.revision,
                verified=in_mesh.verified,
                nodes=tuple(n.name for n in lab.inventory.nodes),
                disks=saved.disks,
                scale=dict(lab.scale),
                releases=asdict(releases_of(lab.made_of)) if lab.has_cluster else {},
                pause=round(saved.pause, 3),
                standing=round(saved.standing, 3),
                apart=round(saved.apart, 4),
                files=checksums(folder, files),
            )
            made.append(complete(manifest))

    plan = plan_save("to the cache, for the next `up`" if store.root.is_relative_to(cache_root()) else f"as {name}")
    with show(plan) as watch:
        execute(plan, perform, watch)
    return made[0]


def _needed(lab: Lab) -> int:
    """How much a save may take at most: all memory, and the disks as they are."""
    disks = sum(p.stat().st_blocks * 512 for p in lab.directories.volumes.glob("*.qcow2"))
    return sum(n.memory for n in lab.inventory.nodes) + disks


def restore(lab: Lab, name: str, show: Show) -> RestoreReport:
    """Bring the lab to the state of its snapshot ``name``, whatever state it is in; the snapshot stays."""
    require_snapshots(lab)
    snapshot = named_store(lab.id).get(name)
    if why := run_out(snapshot.manifest, datetime.now(UTC), cluster=lab.has_cluster):
        raise LabError(f"snapshot {name}", "restore it", why, "run: testbed up")
    lab.hold_to(snapshot.manifest.scale)
    began = snapshot.manifest.releases
    lab.began_with = Releases(**began) if began else None
    return back_to(lab, snapshot, show, "snapshot restore")


def reset(lab: Lab, show: Show) -> RestoreReport:
    """Bring the lab back to the state just after `up` was verified."""
    require_snapshots(lab)
    lab.hold_to({})
    lab.began_with = None
    found = in_cache(lab, machines_of(lab), default_resources(lab))
    if found is None or not found.exact:
        raise LabError(
            lab.id, "reset it", "the cache has no verified state of this inventory", "run: testbed up --cold"
        )
    return back_to(lab, found.snapshot, show, "reset")


def back_to(lab: Lab, snapshot: Snapshot, show: Show, command: str) -> RestoreReport:
    """Restore ``snapshot``: every machine is replaced, and the result has to pass what `up` checks."""
    begin = time.monotonic()
    with hold(lab.directories, f"testbed {command} -i {lab.file}"):
        machines = machines_of(lab)
        require_fit(snapshot, identity_of(lab, machines, default_resources(lab)))
        lab.directories.create()
        none = ResourceSet()
        log.configure(lab.directories.log)
        plan = plan_restore(wanted(lab, machines), observe_remains(lab))  # nodes may not answer, and need not
        if lab.hypervisor_if_up() is not None:
            network.forget_all(lab)  # what faults hold outside the machines; all else goes with these
        performer = Performer(lab, machines, none, Restoring(machines, snapshot))
        with snapshot.used_now():
            seconds, timeline = run(plan, performer, show)
        if lab.scale:
            keep_scale(lab.hypervisor(), lab.scale, time.time())
    return RestoreReport(lab, snapshot.manifest.name, seconds, timeline.ended, time.monotonic() - begin)


def run(plan: Plan, performer: Performer, show: Show) -> tuple[dict[str, float], Timeline]:
    """Execute a plan and keep its times."""
    with show(plan) as watch:
        timeline = Timeline(watch)
        return execute(plan, performer, timeline), timeline


def require_fit(snapshot: Snapshot, identity: Identity) -> None:
    """Raise LabError when the snapshot can't run here, naming what is different."""
    why = misfit(snapshot.manifest, identity.base, identity.emulated, identity.media)
    if why:
        name = snapshot.manifest.name
        raise LabError(f"snapshot {name}", "restore it", why, "run: testbed up")


@dataclass(frozen=True)
class Cached:
    """A lab that the cache has."""

    snapshot: Snapshot
    exact: bool
    """Whether it has the resources, too; else it is the nearest base."""


def in_cache(lab: Lab, machines: Machines, resources: ResourceSet) -> Cached | None:
    """What the cache has of this lab: with these resources, else the last used one of the same machines."""
    if not has_snapshots(lab):
        return None
    identity = identity_of(lab, machines, resources)
    fitting = [
        s
        for s in cache_store(lab.id).all()
        if s.manifest.lab == lab.id
        and not misfit(s.manifest, identity.base, identity.emulated, identity.media)
        and not run_out(s.manifest, datetime.now(UTC), cluster=lab.has_cluster)
    ]
    exact = next((s for s in fitting if s.manifest.key == identity.key), None)
    if exact is not None:
        return Cached(exact, True)
    return Cached(fitting[0], False) if fitting else None


def plan_with_cache(
    lab: Lab, machines: Machines, resources: ResourceSet, *, cold: bool = False, clones: bool = True
) -> tuple[Plan, Cached | None, Templates]:
    """The plan of `up`, what it restores from if it does, and what its nodes start from if they do.

    ``cold``: from nothing, whatever the cache has; ``clones``: new nodes start from templates, made where missing.
    """
    if lab.is_stopped:
        lab.daemon.start()  # only it knows the machines, and how the lab is scaled
        hold_to_machines(lab)
    goal, observed = wanted(lab, machines), look(lab, machines, resources)
    seen = {node: m.spec for node, m in observed.machines.items()}
    new = [node for node, m in goal.machines.items() if seen.get(node) != m.spec]
    all_new = len(new) == len(goal.machines)
    cached = in_cache(lab, machines, resources) if all_new and not cold else None
    templates = Templates() if cold or cached or not clones else templates_of(lab, new)
    here = replace(
        observed,
        snapshot=cached is not None,
        templates=frozenset(templates.fitting),
        templates_to_make=templates.missing,
    )
    return plan_up(goal, here), cached, templates


def preview(lab: Lab, *, cold: bool = False, clones: bool = True) -> Plan:
    """The plan of `up`, made and thrown away."""
    machines = machines_of(lab)
    was_stopped = lab.is_stopped
    try:
        plan, _, _ = plan_with_cache(lab, machines, default_resources(lab), cold=cold, clones=clones)
        return plan
    finally:
        if was_stopped:
            lab.close()
            lab.daemon.stop(keep_definitions=True)


def keep_verified(lab: Lab, machines: Machines, resources: ResourceSet, show: Show) -> Snapshot:
    """Save the lab that was just verified, for the next `up`; older ones go when the cache is full."""
    identity = identity_of(lab, machines, resources)
    store = cache_store(lab.id)
    with hold(lab.directories, f"testbed up -i {lab.file}"):
        name = f"{lab.id}-{identity.key}"
        snapshot = _save(lab, machines, store, name, identity, _known(lab, resources), show)
    store.evict(CACHE_LIMIT)
    return snapshot


def hand_on(lab: Lab, name: str, file: Path, *, media: bool = True) -> int:
    """Export a snapshot of this lab to a file, with the image and the shared disk that its machines read unless
    ``media`` is false; its size in bytes.  Raises LabError where these are others by now."""
    snapshot = named_store(lab.id).get(name)
    disks = machines_of(lab).disks
    if media and snapshot.manifest.media != media_of(disks):
        cause = "the image or the shared disk that its machines read is another here by now"
        raise LabError(f"snapshot {name}", "export it whole", cause, "save another, or give --no-media")
    return export(snapshot, Media(disks.node_image, disks.shared) if media else None, file)


def take_in(lab: Lab, file: Path, name: str) -> Snapshot:
    """Import a snapshot of this lab from a file; see :func:`~testbed.lab.snapshots.parcel.import_`."""
    require_snapshots(lab)
    with hold(lab.directories, f"testbed snapshot import -i {lab.file}"):
        machines = machines_of(lab)
        disks = machines.disks
        identity = identity_of(lab, machines, default_resources(lab))

        def check(manifest: Manifest) -> None:
            if why := unlike(manifest, identity.base, identity.emulated):
                raise bad_input(str(file), why, "it runs where inventory, Testbed, QEMU and processor are the same")
            others = [d for d in (disks.node_image.disk, disks.shared) if d.exists()]
            if len(others) == 2 and identity.media != manifest.media:
                where = " or ".join(str(d.parent) for d in others)
                raise bad_input(
                    str(file),
                    "the image or the shared disk that its machines read is another here: they were built apart",
                    f"take down what uses them, delete {where}, and import it again",
                )

        store = named_store(lab.id)
        snapshot = import_(store, file, Media(disks.node_image, disks.shared), name, check)
        if snapshot.manifest.media != media_of(disks):
            store.delete(snapshot)
            cause = "the image and the shared disk that its machines read are not in it, and not here"
            raise bad_input(str(file), cause, "export it without --no-media")
        return snapshot


def delete(lab: Lab, name: str) -> int:
    """Delete a named snapshot; the bytes that it took."""
    store = named_store(lab.id)
    snapshot = store.get(name)
    freed = snapshot.bytes_on_disk
    store.delete(snapshot)
    return freed


def cached_states() -> list[Snapshot]:
    """Every lab and template in the cache, labs first, the last used one of each first."""
    return [*cache_store("").all(), *template_store().all()]


def prune(limit: int) -> list[Snapshot]:
    """Delete the least recently used labs and templates until the rest takes at most ``limit`` bytes."""
    return evict([cache_store(""), template_store()], limit)
