"""The standalone backend: Envoys that take their configuration from files on their nodes.

No process of ours stays behind: files are compiled here, pushed by one command a node, and every figure comes
from the Envoys' own statistics.  What is in the mesh is read back from the nodes, so this host keeps nothing.
"""

from __future__ import annotations

import difflib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Address

from testbed.backends import looking
from testbed.backends.answers import body_of
from testbed.backends.contract import Applied, MeshDiff, ProxyState
from testbed.backends.guest import Guest
from testbed.backends.named_files import missing, missing_command, named_files, needed_by
from testbed.backends.nodes import Look, Nodes
from testbed.backends.proxy_log import since as log_since
from testbed.backends.push import NodeReport, NodeRequest, ProxyOutcome, ProxyReport, Wanted, in_force
from testbed.backends.secrets import Secrets, chains_of
from testbed.compiler import CompileCache, SecurityInputs, bootstrap, compile_mesh, service_addresses
from testbed.documents import parse
from testbed.errors import LabError, MeshError, MeshLate, TestbedError
from testbed.guests import NodeConnection
from testbed.log import get
from testbed.model.proxy import ProxyConfiguration, XdsFile, content_hash
from testbed.model.topology import MeshWorkload, Topology
from testbed.pki import Credential, LabCa, Validity
from testbed.resources import ResourceSet, dump, load

_LACKS = {
    "control-plane": "no control plane runs: proxies read files",
    "hbone": "every workload has a sidecar: ambient mode is Istio's",
    "pods": "workloads run on machines, not in Kubernetes",
}


@dataclass(frozen=True)
class Plan:
    """What the mesh must have, next to what it has."""

    wanted: Mapping[str, Wanted]
    found: Mapping[str, NodeReport]
    document: str
    """The resources, as stored on the nodes."""
    addresses: Mapping[str, str]
    """Host -> address, of every name that workloads call."""

    def changed(self) -> dict[str, tuple[str, ...]]:
        """Workload -> paths that differ from what its node has."""
        differing = {w: self.wanted[w].differing(self._report(w)) for w in sorted(self.wanted)}
        return {w: paths for w, paths in differing.items() if paths}

    def _report(self, workload: str) -> ProxyReport | None:
        return next((r.proxies[workload] for r in self.found.values() if workload in r.proxies), None)


class StandaloneBackend:
    """The mesh on the nodes that ``connections`` lead to; see :class:`~testbed.backends.contract.Backend`."""

    def __init__(
        self,
        topology: Topology,
        connections: Mapping[str, NodeConnection],
        ca: LabCa,
        *,
        guest: Guest | None = None,
        credentials: Mapping[str, Credential] | None = None,
        security: SecurityInputs | None = None,
        validity: Callable[[], Validity] = Validity.lasting,
        look: Look | None = None,
        lasting: bool = False,
        wake: Callable[[str], None] | None = None,
    ) -> None:
        """``look`` asks a program that waits on a node; without it a shell is started there for each look.

        ``lasting``: more than one question or push follows, so a program that does both is kept on each node while
        connected.  ``wake``: lets a node's services go on that a killed save has left standing.
        """
        self._topology = topology
        self._connections = connections
        self._guest = guest or Guest()
        self._secrets = Secrets(ca, topology.trust_domain, credentials=credentials, validity=validity)
        self._security = security
        self._cache, self._compiling = CompileCache(), threading.Lock()
        self._nodes = Nodes(topology, connections, self._guest, self.log, look=look, lasting=lasting, wake=wake)
        self._found: dict[str, NodeReport] | None = None
        self._log = get("backends")

    @property
    def topology(self) -> Topology:
        """The lab as the mesh sees it."""
        return self._topology

    def diff(self, wanted: ResourceSet) -> MeshDiff:
        """What :meth:`apply` would change."""
        plan = self._plan(self.compile(wanted), wanted, self._reports())
        before = _stored(plan.found.values())
        lines = difflib.unified_diff(
            before.splitlines(), plan.document.splitlines(), "in the mesh", "wanted", lineterm=""
        )
        reports = {w: p for r in plan.found.values() for w, p in r.proxies.items()}
        return MeshDiff(
            revision_from=_lab_revision({w: p.revision for w, p in reports.items()}),
            revision_to=_lab_revision({w: p.revision for w, p in plan.wanted.items()}),
            changed=plan.changed(),
            resources=tuple(lines),
        )

    def apply(self, wanted: ResourceSet, *, limit: float = 60) -> Applied:
        """Make ``wanted`` the mesh's whole configuration and return when it is in force everywhere.

        Only nodes that have something else than they must are written to.  When a proxy refuses or lags, all
        of them go back to what they had, and :class:`~testbed.errors.MeshError` says who and why
        (:class:`~testbed.errors.MeshLate` when none of them rejected it).
        """
        return self.push(self.compile(wanted), wanted, limit=limit)

    def change(self, edit: Callable[[ResourceSet], ResourceSet], *, limit: float = 60) -> Applied:
        """:meth:`apply` what ``edit`` makes of the resources in the mesh: one look at the nodes instead of two."""
        found, self._found = self._found or self._nodes.all(self._nodes.workloads, self._nodes.woken), None
        wanted = edit(load(parse(_stored(found.values()), "the mesh")))
        return self._carry_out(self._plan(self.compile(wanted), wanted, found), wanted, limit)

    def begin(self, documents: Mapping[str, str], *, limit: float = 60) -> None:
        """Have nodes take up what their workloads are now; new ones start with their proxies' files there.

        ``documents``: node -> what its own tool reads.  A proxy's start takes seconds, and the other nodes are
        looked at meanwhile; what was seen is what :meth:`change` goes by next, which tells them of the new ones.
        Raises :class:`~testbed.errors.MeshError` when a new proxy does not take its configuration.
        """
        here = [node for node in documents if node in self._nodes.workloads]
        seen = {node: threading.Event() for node in here}
        # An emulated proxy's start takes seconds of a processor: the others leave it one, until it is there.
        free = max(1, len(os.sched_getaffinity(0)) - len(here))
        others = threading.Semaphore(free if here else len(self._nodes.workloads))

        def set_up(node: str) -> NodeReport:
            try:
                try:
                    report = self._nodes.woken(node, all_there=False, set_up=True)
                finally:
                    seen[node].set()
                return self._set_up(node, report, documents[node], limit)
            finally:
                others.release(len(self._nodes.workloads))

        def look(node: str) -> NodeReport:
            for event in seen.values():  # connecting to all at once would make those wait that have most to do
                event.wait()
            with others:
                return self._nodes.woken(node)

        works = dict.fromkeys(self._nodes.workloads, look) | dict.fromkeys(here, set_up)
        self._found = self._nodes.all(works, lambda node: works[node](node))

    def _set_up(self, node: str, report: NodeReport, document: str, limit: float) -> NodeReport:
        """What the node has in the end: what was given it, since all of that is in force."""
        resources = load(parse(report.resources, "the mesh"))
        new = [w for w in self._nodes.workloads[node] if not report.proxies[w.name].revision]
        with self._compiling:
            wanted = self._wanted(new, self.compile(resources), resources, report)
        addresses = service_addresses(resources, self._topology)
        request = self._nodes.request(node, limit, addresses).carrying(wanted, report, report.resources)
        outcomes = self._nodes.push(node, replace(request, set_up=document), limit)
        if rejected := {w: o for w, o in outcomes.items() if o.trouble}:
            raise _trouble(rejected, {})
        given = {
            name: in_force(w, {**report.proxies[name].certificates, **chains_of(w.files.values())})
            for name, w in wanted.items()
        }
        return replace(report, proxies={**report.proxies, **given}, hosts=request.hosts)

    def compile(self, wanted: ResourceSet) -> dict[str, ProxyConfiguration]:
        """What every proxy must have for ``wanted``; what an earlier call made is not made again."""
        layout = self._guest.layout
        return compile_mesh(wanted, self._topology, layout=layout, cache=self._cache, security=self._security)

    def push(
        self, configurations: Mapping[str, ProxyConfiguration], resources: ResourceSet, *, limit: float = 60
    ) -> Applied:
        """Put these configurations in force; ``resources`` are what they were compiled from.

        A proxy that has nothing yet is in force before the others are told of it: nobody calls one that starts.
        """
        return self._carry_out(self._plan(configurations, resources, self._reports()), resources, limit)

    def _carry_out(self, plan: Plan, resources: ResourceSet, limit: float) -> Applied:
        self._require_files(plan, resources)
        revision = _lab_revision({w: p.revision for w, p in plan.wanted.items()})
        begun = time.monotonic()
        proxies: dict[str, ProxyOutcome] = {}
        told: set[str] = set()
        for wave in _waves(plan):
            requests = {n: r for n in plan.found if (r := self._request(n, wave, plan, limit)) is not None}
            outcomes, failed = self._nodes.each(requests, lambda n: self._nodes.push(n, requests[n], limit))  # noqa: B023
            told |= set(requests)
            proxies |= {w: o for node in outcomes.values() for w, o in node.items()}
            rejected = {w: o for w, o in proxies.items() if o.trouble}
            if failed or rejected:
                self._nodes.roll_back(proxies)
                raise _trouble(rejected, failed)
        total = time.monotonic() - begun
        taken = max((o.taken for o in proxies.values()), default=0.0)
        drained = max((o.drained for o in proxies.values()), default=0.0)
        applied = Applied(
            revision=revision,
            changed={w: o.written for w, o in sorted(proxies.items()) if o.written},
            push_seconds=max(0.0, total - drained),
            in_force_seconds=taken,
            drain_seconds=drained - taken,
            revisions={w: p.revision for w, p in sorted(plan.wanted.items())},
            was_in_force=not told,
        )
        self._log.info("applied", revision=revision, changed=sorted(applied.changed), seconds=round(total, 3))
        return applied

    def states(self) -> tuple[ProxyState, ...]:
        """Every proxy's state by workload name; a node that can't be asked counts as proxies that don't answer."""
        reports, _ = self._nodes.each(self._nodes.workloads, self._nodes.report)
        found = {w: p for r in reports.values() for w, p in r.proxies.items()}
        names = sorted(w.name for w in self._topology.workloads)
        return tuple(found[n].state(n) if n in found else ProxyState(n, "", in_force=False) for n in names)

    def applied(self) -> ResourceSet:
        """The resources in the mesh.  When nodes disagree (one came back from an old snapshot), most win."""
        reports, failed = self._nodes.each(self._nodes.workloads, self._nodes.report)
        if failed and not reports:
            raise next(iter(failed.values()))
        return load(parse(_stored(reports.values()), "the mesh"))

    def holds(self, resources: ResourceSet) -> bool:
        """Whether ``resources``, put on top of what is applied, would change nothing and everything is in force."""
        found, failed = self._nodes.each(self._nodes.workloads, self._nodes.report)
        if failed:
            return False
        stored = _stored(found.values())
        wanted = load(parse(stored, "the mesh")).merged(resources)
        plan = self._plan(self.compile(wanted), wanted, found)
        states = [p.state(w) for r in found.values() for w, p in r.proxies.items()]
        return not plan.changed() and plan.document == stored and all(s.in_force for s in states)

    def renew_certificates(self) -> Mapping[str, tuple[str, ...]]:
        """Renew what is in the last third of its life, or shows another identity or CA than it must.

        Returns what was written, by workload.  Traffic goes on: proxies take new secrets for new connections.
        """
        return self.apply(self.applied()).changed

    def admin(self, workload: str, path: str) -> bytes:
        """``GET path`` on the proxy's admin port."""
        command = looking.exchange(self._guest, workload, self._guest.admin_port, path)
        return body_of(self.connection(workload).run(command).stdout)

    def log(self, workload: str, since: datetime | None = None) -> str:
        """The proxy's own log."""
        done = self.connection(workload).run(self._guest.command(self._guest.log, workload))
        return log_since(done.stdout.decode(errors="replace"), since)

    def connection(self, workload: str) -> NodeConnection:
        """The connection to the workload's node; :class:`KeyError` when there is no such workload."""
        return self._connections[self._topology.workload(workload).node]

    def reached_at(self, workload: str) -> IPv4Address:
        """Its address in the mesh network."""
        return self._topology.workload(workload).address

    def wire_addresses(self, workload: str) -> frozenset[IPv4Address]:
        """That alone: nothing is translated."""
        return frozenset({self.reached_at(workload)})

    def not_applicable(self, feature: str) -> str | None:
        """Why there is no ``feature`` here."""
        return _LACKS.get(feature)

    # What must be there

    def _reports(self) -> dict[str, NodeReport]:
        return self._nodes.all(self._nodes.workloads, self._nodes.report)

    def _plan(
        self,
        configurations: Mapping[str, ProxyConfiguration],
        resources: ResourceSet,
        found: Mapping[str, NodeReport],
    ) -> Plan:
        wanted: dict[str, Wanted] = {}
        for node, workloads in self._nodes.workloads.items():
            wanted |= self._wanted(workloads, configurations, resources, found[node])
        return Plan(wanted, found, dump(resources), service_addresses(resources, self._topology))

    def _wanted(
        self,
        workloads: Iterable[MeshWorkload],
        configurations: Mapping[str, ProxyConfiguration],
        resources: ResourceSet,
        report: NodeReport,
    ) -> dict[str, Wanted]:
        wanted = {}
        for workload in workloads:
            content = bootstrap(workload, self._topology, self._guest.layout)
            start = XdsFile("bootstrap.json", "", (), content_hash(content), content)
            configuration = configurations[workload.name]
            secrets = self._secrets.files(workload, configuration, report.proxies[workload.name], resources)
            files = {f.path: f for f in (*configuration.files.values(), *secrets, start)}
            wanted[workload.name] = Wanted(configuration.revision, files)
        return wanted

    def _request(self, node: str, wave: Collection[str], plan: Plan, limit: float) -> NodeRequest | None:
        """What the node must be told of the proxies in ``wave``; None when it has all and all is in force."""
        report = plan.found[node]
        names = [w.name for w in self._nodes.workloads[node] if w.name in wave]
        if not names:
            return None
        stale = {n: plan.wanted[n] for n in names if plan.wanted[n].differs(report.proxies[n])}
        request = self._nodes.request(node, limit, plan.addresses)
        if not stale and report.resources == plan.document and request.has_hosts(report):
            return None
        return request.carrying(stale, report, plan.document)

    def _require_files(self, plan: Plan, resources: ResourceSet) -> None:
        """Raise BadInput, located, when a setting names a file that a node which needs it has not."""
        if not (files := named_files(resources)):
            return
        needed: dict[str, set[str]] = {}
        for workload in self._topology.workloads:
            needed.setdefault(workload.node, set()).update(needed_by(plan.wanted[workload.name].files, files))
        asked = [node for node, paths in needed.items() if paths]
        said = self._nodes.all(
            asked, lambda node: self._connections[node].run(missing_command(sorted(needed[node]))).stdout
        )
        if (wrong := missing(said, files)) is not None:
            raise wrong


def _waves(plan: Plan) -> list[frozenset[str]]:
    """Proxies in the order in which they are told: first those that have nothing yet, when others have."""
    new = frozenset(w for report in plan.found.values() for w, p in report.proxies.items() if not p.revision)
    rest = frozenset(plan.wanted) - new
    return [wave for wave in (new, rest) if wave]


def _lab_revision(revisions: Mapping[str, str]) -> str:
    return content_hash(*(part for name in sorted(revisions) for part in (name, revisions[name])))


def _stored(reports: Iterable[NodeReport]) -> str:
    """The resources that most nodes have stored."""
    stored = Counter(r.resources for r in reports)
    return min(stored, key=lambda text: (-stored[text], text), default="")


def _trouble(proxies: Mapping[str, ProxyOutcome], nodes: Mapping[str, TestbedError]) -> TestbedError:
    """One error for all that went wrong: what was refused before what is late, mesh before machines."""
    if not proxies:
        first = next(iter(nodes.values()))
        return first if isinstance(first, LabError) else MeshError(next(iter(nodes)), "push", str(first))
    ordered: Sequence[str] = sorted(proxies, key=lambda w: (not proxies[w].refused, w))
    first_name = ordered[0]
    outcome = proxies[first_name]
    more = f" (and {len(ordered) - 1} more: {', '.join(ordered[1:])})" if len(ordered) > 1 else ""
    kept = "; the last good revision is kept" if outcome.back else ""
    kind = MeshError if outcome.refused else MeshLate
    return kind(first_name, outcome.verb, outcome.trouble + more + kept, f"testbed proxy {first_name} log")
