"""The istio backend: resources go to the cluster's API, istiod computes, and each proxy is asked what it runs.

What is in the mesh is read back from the API, so this host keeps nothing.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from ipaddress import IPv4Address
from types import MappingProxyType

from testbed.backends.answers import body_of
from testbed.backends.contract import Applied, MeshDiff, ProxyState
from testbed.backends.guest import Guest
from testbed.backends.istio.api import ApiRefused, KubeApi
from testbed.backends.istio.applying import Change, LabResources
from testbed.backends.istio.distribution import (
    CLUSTERS,
    SETTLING,
    WITNESS,
    Ask,
    ProxySync,
    await_known,
    await_proxies,
    busy,
    read_syncz,
    revisions_of,
    witness,
)
from testbed.backends.istio.places import ISTIOD_PORT, Place, Places, exchange
from testbed.backends.istio.whereabouts import Whereabouts
from testbed.errors import LabError, MeshError, TestbedError
from testbed.guests import NodeConnection
from testbed.guests.connection import CommandFailed
from testbed.log import get
from testbed.model.proxy import content_hash
from testbed.model.topology import Topology
from testbed.resources import Resource, ResourceSet, dump
from testbed.resources.values import Message
from testbed.waiting import NotYet, wait_until

_CONTAINER = "istio-proxy"
"""Name that Istio gives the sidecar's container, and the gateway's."""

_DRAINING = "_draining"

_UNANSWERED = "failed calling webhook"
"""In what the API says when nobody looked at a resource."""

_LACKS = {
    "ejections": "Istio's proxies write no log of ejections",
    "hbone": "pods have sidecars: mesh.mode is not ambient",
}


class IstioBackend:
    """The mesh of the lab ``lab``; see :class:`~testbed.backends.contract.Backend`.

    A revision is ``HASH-NUMBER``: the content hash of the lab's resources as the API has them, and a count of the
    changes, so that going back to what was there before is a revision that no proxy has yet.
    """

    def __init__(
        self,
        lab: str,
        topology: Topology,
        connections: Mapping[str, NodeConnection],
        api: KubeApi,
        places: Places,
        guest: Guest | None = None,
        node_addresses: Mapping[str, IPv4Address] = MappingProxyType({}),
    ) -> None:
        """``node_addresses``: of the cluster's nodes, which what leaves the cluster has as its source."""
        self._topology = topology
        self._connections = connections
        self._api = api
        self._places = places
        self._whereabouts = Whereabouts(topology, connections, places)
        self._resources = LabResources(api, lab)
        self._guest = guest or Guest()
        self._node_addresses = node_addresses
        self._log = get("backends")

    @property
    def topology(self) -> Topology:
        """The lab as the mesh sees it."""
        return self._topology

    def diff(self, wanted: ResourceSet) -> MeshDiff:
        """What :meth:`apply` would change.  All of admission is gone through; raises :class:`BadInput`, located."""
        change = self._resources.diff(wanted)
        applied = self._resources.applied()
        touched = {*change.created, *change.changed, *change.removed}
        before, after = (_text(r for r in some if r.key in touched) for some in (applied, wanted))
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "in the mesh", "wanted", lineterm="")
        return MeshDiff(_content(applied), _content(wanted), resources=tuple(lines))

    def apply(self, wanted: ResourceSet, *, limit: float = 60) -> Applied:
        """Make ``wanted`` the lab's resources and return when every proxy answers with the revision.

        What the cluster refuses raises :class:`BadInput`, located, and changes nothing.  What a proxy rejects it
        never serves; the resources stay in the cluster then, as with ``kubectl``.
        """
        begun = time.monotonic()
        standing = self._standing()
        change = wait_until("the cluster's webhooks answer", lambda: self._change(wanted), limit=limit, interval=1)
        stored, content = self._resources.versions(), _content(self._resources.applied())
        touched = (*change.created, *change.changed, *change.removed)
        revision = standing
        if touched or standing.partition("-")[0] != content:
            await_known(self._istiod(), stored, change.removed, limit=limit)
            revision = f"{content}-{int(standing.rpartition('-')[2] or 0) + 1}"
            self._send_witness(revision)
        pushed = time.monotonic()
        places = self._all_places(limit)
        self._await(places, revision, limit)
        done = time.monotonic()
        self._log.info("applied", revision=revision, changed=[str(k) for k in touched], seconds=done - begun)
        return Applied(
            revision=revision,
            # istiod sends the change, and the witness with it, to every proxy
            changed=dict.fromkeys(sorted(places), tuple(map(str, touched))) if touched else {},
            push_seconds=pushed - begun,
            in_force_seconds=done - pushed,
            revisions=dict.fromkeys(sorted(places), revision),
        )

    def change(self, edit: Callable[[ResourceSet], ResourceSet], *, limit: float = 60) -> Applied:
        """:meth:`apply` what ``edit`` makes of the lab's resources."""
        return self.apply(edit(self.applied()), limit=limit)

    def holds(self, resources: ResourceSet) -> bool:
        """Whether ``resources``, put on top of what is applied, would change nothing and everything is in force."""
        try:
            applied = self._resources.applied()
            if self._standing().partition("-")[0] != _content(applied):
                return False
            wanted = applied.merged(resources)
            return self.diff(wanted).is_empty and all(state.in_force for state in self.states())
        except (LabError, MeshError):
            return False

    def states(self) -> tuple[ProxyState, ...]:
        """Every proxy's state by workload name; one that can't be asked counts as not answering."""
        standing, places = self._standing(), self._places.proxies()
        try:
            synced = read_syncz(self._istiod()("/debug/syncz"))
        except (NotYet, TestbedError):
            synced = {}  # proxies go on without istiod, but nobody knows whether they have all of it
        look = self._looker(standing, synced, places)

        def state(workload: str) -> ProxyState:
            if workload not in places:
                return ProxyState(workload, standing, in_force=False)
            return look(workload, places[workload])

        names = sorted(w.name for w in self._topology.workloads)
        with ThreadPoolExecutor(max_workers=max(1, len(self._connections))) as pool:
            return tuple(pool.map(state, names))

    def applied(self) -> ResourceSet:
        """The lab's resources, as the API has them."""
        return self._resources.applied()

    def admin(self, workload: str, path: str) -> bytes:
        """``GET path`` on the proxy's admin port."""
        [body] = self._get(self._proxy(workload), self._guest.admin_port, path)
        return body

    def log(self, workload: str, since: datetime | None = None) -> str:
        """The proxy's own log: of its container, or of its unit on a machine outside the cluster."""
        place = self._proxy(workload)
        pod, _, namespace = place.proxy.rpartition(".")
        if not place.is_pod:
            argv = self._guest.command(self._guest.log, workload)
            if since is not None:
                argv.append(f"--since=@{since.timestamp():.6f}")
            return self._connections[place.node].run(argv).stdout.decode(errors="replace")
        query = {"container": _CONTAINER, "tailLines": "2000"}
        if since is not None:
            query["sinceTime"] = f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        return self._api.text(f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query)

    def connection(self, workload: str) -> NodeConnection:
        """The connection to the node where the workload's pod is, whose namespace has the workload's name there; to
        the workload's own node when no pod runs.  :class:`KeyError` when there is no such workload."""
        return self._whereabouts.connection(workload)

    def reached_at(self, workload: str) -> IPv4Address:
        """The pod's address, or that of a machine's workload."""
        return IPv4Address(self._place(workload).address)

    def wire_addresses(self, workload: str) -> frozenset[IPv4Address]:
        """A pod's address and its node's, or those of a machine's workload: its own."""
        place = self._place(workload)
        own = {IPv4Address(place.address)}
        if place.is_pod and place.node in self._node_addresses:
            own.add(self._node_addresses[place.node])
        return frozenset(own)

    def not_applicable(self, feature: str) -> str | None:
        """What Istio's own bootstrap lacks; control plane and pods are there."""
        return _LACKS.get(feature)

    # What is there

    @property
    def _witness_path(self) -> str:
        return self._api.path("networking.istio.io/v1alpha3", "EnvoyFilter", self._topology.root_namespace, WITNESS)

    def _standing(self) -> str:
        """The revision of the witness in the cluster, empty before the first."""
        try:
            found = self._api.get(self._witness_path)
        except ApiRefused as e:
            if e.code == 404:
                return ""
            raise
        [patch] = found["spec"]["configPatches"]
        return str(patch["patch"]["value"]["name"]).partition("|")[2]

    def _proxy(self, workload: str) -> Place:
        """Where the workload's proxy is: with itself."""
        return self._place(workload)

    def _change(self, wanted: ResourceSet) -> Change:
        """Apply ``wanted`` inside a wait: the cluster takes nothing that istiod has not looked at, which may just
        be starting.  An apply that ended in the middle is gone on with."""
        try:
            return self._resources.apply(wanted)
        except MeshError as e:
            if _UNANSWERED not in e.cause:
                raise
            raise NotYet(e.cause) from None

    def _place(self, workload: str) -> Place:
        found = self._places.proxies().get(workload)
        if found is None:
            raise MeshError(workload, "find its pod", "none is running", "testbed status")
        return found

    def _all_places(self, limit: float) -> Mapping[str, Place]:
        def probe() -> Mapping[str, Place]:
            places = self._places.proxies()
            missing = sorted({w.name for w in self._topology.workloads} - set(places))
            if missing:
                raise NotYet(f"no pod runs for {', '.join(missing)}")
            return places

        return wait_until("workloads running", probe, limit=limit, interval=1)

    def _send_witness(self, revision: str) -> None:
        self._api.apply(self._witness_path, witness(revision, self._topology.root_namespace))

    def _await(self, places: Mapping[str, Place], revision: str, limit: float) -> None:
        """Wait until the proxies of the workloads at ``places`` have the revision."""
        asks = {place.proxy: self._asks(place, self._guest.admin_port) for place in places.values()}
        await_proxies(self._istiod(), asks, revision, limit=limit)

    def _looker(
        self, standing: str, synced: Mapping[str, ProxySync], places: Mapping[str, Place]
    ) -> Callable[[str, Place], ProxyState]:
        """What asks each of the workloads at ``places`` for its state."""
        return lambda workload, place: self._state(workload, place, standing, synced.get(place.proxy))

    def _state(self, workload: str, place: Place, standing: str, synced: ProxySync | None) -> ProxyState:
        try:
            clusters, settling, info = self._get(place, self._guest.admin_port, CLUSTERS, SETTLING, "/server_info")
        except LabError:
            return ProxyState(workload, standing, in_force=False)
        has, figures, server = revisions_of(clusters), busy(settling), str(json.loads(info)["state"])
        behind: tuple[str, ...] = () if standing in has else (f"revision {standing}",)
        if synced is None:
            behind += ("istiod, which it is not connected to",)
        else:
            behind += synced.behind or ((f"istiod, which {synced.lag}",) if synced.lag else ())
        rejected = dict(synced.rejected) if synced else {}
        return ProxyState(
            workload,
            standing,
            in_force=bool(standing) and server == "LIVE" and not (behind or rejected or figures),
            behind=behind,
            warming=tuple(f"{n} {name}" for name, n in figures.items() if not name.endswith(_DRAINING)),
            draining=sum(n for name, n in figures.items() if name.endswith(_DRAINING)),
            rejected=rejected,
            server=server,
        )

    # Asking

    def _istiod(self) -> Ask:
        return self._asks(self._places.istiod(), ISTIOD_PORT)

    def _asks(self, place: Place, port: int) -> Ask:
        """Ask ``place`` inside a wait: not answering is something that may pass."""

        def ask(path: str) -> bytes:
            try:
                [body] = self._get(place, port, path)
            except CommandFailed as e:
                raise NotYet(f"{place.proxy} does not answer: {e.cause}") from None
            return body

        return ask

    def _get(self, place: Place, port: int, *paths: str) -> list[bytes]:
        """The bodies, in order.  No text of an admin port holds a NUL."""
        answers = self._connections[place.node].run(exchange(place, port, *paths)).stdout.split(b"\0")[:-1]
        if len(answers) < len(paths) or not all(answers):  # it closed the connection, as a program does that ends
            raise CommandFailed(place.node, f"ask {place.proxy} for {', '.join(paths)}", "the answer is empty")
        return [body_of(said) for said in answers]


def _text(resources: Iterable[Resource[Message]]) -> str:
    return dump(sorted(resources, key=lambda r: r.key))


def _content(resources: ResourceSet) -> str:
    """The content hash, whatever the order of files."""
    plain = [r.to_plain() for r in sorted(resources, key=lambda r: r.key)]
    return content_hash(json.dumps(plain, sort_keys=True, default=str))
