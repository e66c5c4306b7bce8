"""Each action of a plan, done: the one place where a step's name meets the room that carries it out."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from testbed.backends.istio.homes import bring_home
from testbed.backends.standalone import StandaloneBackend
from testbed.compiler import compile_mesh
from testbed.documents import parse
from testbed.host.forward import start_forward, stop_forward
from testbed.lab.lab import API_FORWARD, Lab
from testbed.lab.machines import Machines
from testbed.lab.snapshots import Cloning, Restoring
from testbed.model.clusters import API_PORT, api_address
from testbed.model.proxy import ProxyConfiguration
from testbed.model.topology import ProxyKind
from testbed.plan.steps import (
    Action,
    ApplyMesh,
    AskEdges,
    AwaitClone,
    AwaitMachine,
    BringReleases,
    BuildImage,
    BuildShared,
    CheckSnapshot,
    CloneMachine,
    CreateMachine,
    DefineNetwork,
    DeleteFiles,
    DeployPods,
    DeployWorkloads,
    Forward,
    InstallControlPlane,
    InstallNode,
    MakeTemplate,
    RemoveMachine,
    RemoveNetwork,
    RestoreMachine,
    ResumeMachines,
    RetireControlPlanes,
    SaveLab,
    SendHome,
    StartHypervisor,
    StartMachine,
    StopForward,
    StopHypervisor,
    ThawMachine,
    UpgradeNode,
)
from testbed.resources import ResourceSet, load
from testbed.workflows.bringing import bring
from testbed.workflows.cloning import Templates, make_template
from testbed.workflows.draining import upgrade_node
from testbed.workflows.edges import Edge, ask_edges, edges_of
from testbed.workflows.istio import deploy_pods, deploy_sidecars, install_control_plane
from testbed.workflows.kubernetes import await_cluster, join
from testbed.workflows.mesh import backend_of, security_of, standalone_of
from testbed.workflows.upgrading import retire_control_planes
from testbed.workflows.workloads import deploy_workloads, hand_over_workloads, workloads_document

IN_FORCE_LIMIT = 120.0
"""Seconds for a whole lab's first configuration to be in force; eleven Envoys start in it."""

CLUSTER_LIMIT = 300.0
"""Seconds for the same with Istio: a machine's sidecar asks for a certificate and registers first."""


@dataclass
class Performer:
    """Carries out a lab's steps.  Called from several threads at once."""

    lab: Lab
    machines: Machines
    resources: ResourceSet
    """What the mesh gets on top of what it has."""
    restoring: Restoring | None = None
    """The restore under way, if the plan is one."""
    cloning: Cloning | None = None
    """What starts nodes from templates, if the plan has such steps."""
    templates: Templates = field(default_factory=Templates)
    """The templates that there are for them, and those to be made."""
    at_once: bool = False
    """All machines have been up for a while: what they are asked and given goes over connections that are kept."""
    _kept: StandaloneBackend | None = None
    _compiled: Mapping[str, ProxyConfiguration] = field(default_factory=dict)
    _edges: Sequence[Edge] = ()
    """Those that have yet to be asked."""

    def __call__(self, action: Action, cancel: threading.Event) -> None:  # noqa: PLR0912, PLR0915  (one line per action)
        """Do ``action``; ``cancel`` calls off its waits."""
        match action:
            case StartHypervisor():
                self.lab.daemon.start()
            case BuildImage():
                self.machines.disks.build_image()
            case BuildShared():
                self.machines.disks.build_shared()
            case DefineNetwork(role):
                self.machines.define_network(role)
            case RemoveNetwork(role):
                self.lab.hypervisor().remove_network(role)
            case CreateMachine(node):
                self.machines.create(node)
            case StartMachine(node):
                self.machines.start(node)
            case AwaitMachine(node):
                self.machines.wait(node, cancel)
            case MakeTemplate(node):
                make_template(self._clones, self.templates, node, cancel)
            case CloneMachine(node):
                self._clones.start(node)
            case AwaitClone(node):
                self._clones.wait(node, cancel)
            case RemoveMachine(node):
                self.machines.remove(node)
            case CheckSnapshot():
                self._check()
            case RestoreMachine(node):
                self._restore.load(node)
            case ResumeMachines():
                self._restore.resume()
            case ThawMachine(node):
                self._restore.thaw(node, cancel)
            case AskEdges():
                ask_edges(self.lab, self._edges)
            case InstallNode(node):
                join(self.lab, node, cancel)
            case BringReleases(node, releases):
                bring(self.lab, node, releases, cancel)
            case UpgradeNode(node):
                upgrade_node(self.lab, node, cancel)
            case InstallControlPlane():
                install_control_plane(self.lab, cancel)
            case RetireControlPlanes():
                retire_control_planes(self.lab, cancel)
            case DeployPods():
                deploy_pods(self.lab, cancel)
            case SendHome():
                bring_home(self.lab, cancel=cancel)
            case DeployWorkloads(nodes):
                if self.at_once:
                    self._hand_over(nodes)
                    return
                deploy_workloads(self.lab, nodes)
                if self.lab.has_cluster:
                    deploy_sidecars(self.lab, nodes, cancel)
            case ApplyMesh():
                self._apply(cancel)
            case Forward(gateway, port):
                self._forward(gateway, port)
            case StopForward(gateway):
                stop_forward(self.lab.directories, self._address(gateway))
            case StopHypervisor():
                self.lab.close()
                self.lab.daemon.stop()
            case SaveLab():
                raise AssertionError("saving is no part of a plan of the lab's")
            case DeleteFiles():
                shutil.rmtree(self.lab.directories.state, ignore_errors=True)
                self.lab.directories.remove()

    def _apply(self, cancel: threading.Event) -> None:
        if self.lab.has_cluster:
            if self.restoring is not None:
                await_cluster(self.lab, cancel)
            backend = backend_of(self.lab)
            backend.apply(backend.applied().merged(self.resources), limit=CLUSTER_LIMIT)
            return
        if self.restoring is not None:
            self._apply_restored()
            return
        self._kept = self._kept or standalone_of(self.lab, lasting=self.at_once)
        self._kept.change(lambda there: there.merged(self.resources), limit=IN_FORCE_LIMIT)

    def _hand_over(self, nodes: tuple[str, ...]) -> None:
        if self._kept is not None:  # the mesh has forgotten those that end now
            hand_over_workloads(self.lab, nodes)
            return
        self._kept = standalone_of(self.lab, lasting=True)
        self._kept.begin({node: workloads_document(self.lab, node) for node in nodes}, limit=IN_FORCE_LIMIT)

    def _check(self) -> None:
        """What will be pushed and asked is settled while the disk is read."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            settled = pool.submit(self._settle)
            self._restore.files()
            settled.result()

    def _settle(self) -> None:
        topology, resources = self.lab.topology, self._restored_resources()
        self._compiled = compile_mesh(resources, topology, security=security_of(self.lab))
        # a gateway's address would lead its pod back to itself, which no caller does: its proxy's state has to do;
        # and a pod without an Envoy goes by no routes
        others = (w for w in topology.workloads if w.kind is not ProxyKind.SIDECAR)
        inside = {w.name for w in others if self.lab.has_cluster}
        found = edges_of(topology, resources, self._compiled)
        self._edges = [edge for edge in found if edge.caller.name not in inside]

    def _apply_restored(self) -> None:
        """Edges are asked at the same time: mostly all is in force as it came out of the image."""
        backend = standalone_of(self.lab, restored=True)
        with ThreadPoolExecutor(max_workers=1) as pool:
            asked = pool.submit(ask_edges, self.lab, self._edges)
            applied = backend.push(self._compiled, self._restored_resources(), limit=IN_FORCE_LIMIT)
            error = asked.exception()
        if not applied.was_in_force:  # they were asked of something else, and are asked again
            return
        self._edges = []
        if error is not None:
            raise error

    def _restored_resources(self) -> ResourceSet:
        """What the snapshot has in the mesh, and ours on top."""
        saved = load(parse(self._restore.snapshot.manifest.resources, "the snapshot"))
        return saved.merged(self.resources)

    @property
    def _restore(self) -> Restoring:
        assert self.restoring is not None  # noqa: S101  (only a plan with a snapshot has such steps)
        return self.restoring

    @property
    def _clones(self) -> Cloning:
        assert self.cloning is not None  # noqa: S101  (only a plan with templates has such steps)
        return self.cloning

    def _forward(self, gateway: str, port: int) -> None:
        if gateway == API_FORWARD:
            address = api_address(self.lab.inventory)
            start_forward(self.lab.directories, address, API_PORT, port=port, private=self.lab.private)
            return
        workload = self.lab.topology.workload(gateway)
        target = workload.ports[0].target
        start_forward(self.lab.directories, str(workload.address), target, port=port, private=self.lab.private)

    def _address(self, gateway: str) -> str:
        known = {w.name: str(w.address) for w in self.lab.topology.workloads}
        if self.lab.has_cluster:
            known[API_FORWARD] = api_address(self.lab.inventory)
        return known.get(gateway, gateway)
