"""What shall be and what is, put side by side."""

from __future__ import annotations

from dataclasses import replace

from testbed.artifacts import releases_of
from testbed.backends.istio.revisions import refusal
from testbed.compiler import compile_mesh
from testbed.errors import Location, bad_input
from testbed.faults.breaking import Breaker
from testbed.host.probes import kvm
from testbed.lab.lab import API_FORWARD, Lab
from testbed.lab.machines import Machines
from testbed.lab.observing import observe
from testbed.model.upgrades import k3s_refusal
from testbed.plan import ObservedLab, WantedLab, WantedMachine
from testbed.resources import ResourceSet
from testbed.workflows.cluster import wanted_cluster
from testbed.workflows.homes import with_pods_away
from testbed.workflows.istio import with_identities
from testbed.workflows.kubernetes import with_cluster
from testbed.workflows.mesh import backend_of, security_of
from testbed.workflows.registries import registries_access
from testbed.workflows.workloads import workloads_digest


def machines_of(lab: Lab) -> Machines:
    """The lab's machines, accelerated where the host's KVM runs guests."""
    return Machines(lab, kvm=kvm.verdict().usable)


def wanted(lab: Lab, machines: Machines) -> WantedLab:
    """What the inventory comes to on this host."""
    return WantedLab(
        id=lab.id,
        private_hypervisor=lab.private,
        networks=machines.networks(),
        machines={
            node: WantedMachine(spec, workloads_digest(lab, node)) for node, spec in machines.specs().items()
        },
        forwards=_forwards(lab),
        cluster=wanted_cluster(lab.inventory, registries_access(lab.inventory, lab.file), lab.began_with),
    )


def _forwards(lab: Lab) -> dict[str, int]:
    gateways = {g.name: g.forward for g in lab.inventory.gateways if g.forward is not None}
    return gateways | ({API_FORWARD: 0} if lab.has_cluster else {})


def look(lab: Lab, machines: Machines, resources: ResourceSet) -> ObservedLab:
    """What is there, and whether ``resources`` on top of what is applied are in force.

    Compiling comes first: resources that can't be compiled are found before anything is touched.
    """
    if not lab.has_cluster:
        compile_mesh(resources, lab.topology, security=security_of(lab))
    Breaker(lab).recover()
    observed = observe(lab, machines.disks)
    if lab.has_cluster:
        observed = with_pods_away(lab, with_identities(lab, with_cluster(lab, observed)))
        _require_upgradable(lab, observed)
        if observed.pods is None:
            return observed
    nodes = {n.name for n in lab.inventory.nodes}
    if set(observed.machines) != nodes or not all(m.answers for m in observed.machines.values()):
        return observed
    return replace(observed, mesh_in_force=backend_of(lab).holds(resources))


def _require_upgradable(lab: Lab, observed: ObservedLab) -> None:
    """Raise BadInput when the cluster can't be taken from the k3s and Istio that it runs to the inventory's."""
    target = releases_of(lab.inventory)
    advice = "go by one minor version at a time, or make the lab anew: testbed down, then testbed up"
    for version in sorted({m.k3s for m in observed.machines.values() if m.k3s}):
        if reason := k3s_refusal(version, target.k3s):
            raise bad_input(Location(lab.file, field="cluster.version"), reason, advice)
    if reason := refusal(observed.revisions, target.istio):
        raise bad_input(Location(lab.file, field="mesh.version"), reason, advice)
