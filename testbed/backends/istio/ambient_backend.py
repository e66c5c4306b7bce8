"""The istio backend in ambient mode: a pod's state is what the ztunnel of its node says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from testbed.backends.contract import Applied, ProxyState
from testbed.backends.istio.ambient import Tunnel, read_tunnel, tunnel_witness
from testbed.backends.istio.backend import IstioBackend
from testbed.backends.istio.distribution import ProxySync, check_rejected, read_syncz
from testbed.backends.istio.places import Place, within
from testbed.errors import LabError
from testbed.resources import ResourceSet
from testbed.waiting import NotYet, wait_until

_DUMP = "/config_dump"

_CUT = "ss -HKtn state established '( sport = :15008 or sport = :15006 )' >/dev/null || true"
"""In a pod: ends what its ztunnel has taken in, tunnels and plain connections."""

_LACKS = {
    "tls-off": "callers tunnel to pods in ambient mode, whatever a DestinationRule's tls says",
}


class AmbientBackend(IstioBackend):
    """Gateways and machines outside the cluster have Envoys, and are asked as in sidecar mode.

    A second witness goes to ztunnels, before that of the Envoys: a policy, as they read nothing else of resources.
    """

    def apply(self, wanted: ResourceSet, *, limit: float = 60) -> Applied:
        """As everywhere; and what pods have open is cut after a change, so that callers begin anew.

        ztunnel holds an open connection against the policies that were attached to the pod when it was opened: one
        that is attached later would leave it alone for as long as its caller keeps it.
        """
        done = super().apply(wanted, limit=limit)
        if done.changed:
            for place in self._tunneled(self._places.proxies()).values():
                self._connections[place.node].run(within(place, _CUT))
        return done

    def not_applicable(self, feature: str) -> str | None:
        """What ambient mode lacks, and what Istio's bootstrap does."""
        if feature == "hbone":
            return None
        return _LACKS.get(feature) or super().not_applicable(feature)

    def admin(self, workload: str, path: str) -> bytes:
        """``GET path`` on the Envoy's admin port; of a pod in ambient mode the dump of its node's ztunnel alone."""
        if self._has_envoy(workload) or path == _DUMP:
            return super().admin(workload, path)
        cause = "it is in ambient mode and has no Envoy; its node's ztunnel only has a config dump"
        raise LabError(workload, f"ask its proxy for {path}", cause, f"testbed proxy {workload} config")

    def _has_envoy(self, workload: str) -> bool:
        return self._topology.workload(workload).has_envoy

    def _proxy(self, workload: str) -> Place:
        place = self._place(workload)
        return place if self._has_envoy(workload) else self._ztunnel(place.node)

    def _ztunnel(self, node: str) -> Place:
        found = self._places.ztunnels().get(node)
        if found is None:
            raise LabError(node, "find its ztunnel", "none is running", "testbed status")
        return found

    def _send_witness(self, revision: str) -> None:
        manifest = tunnel_witness(revision, self._topology.root_namespace)
        metadata = manifest["metadata"]
        path = self._api.path(manifest["apiVersion"], manifest["kind"], metadata["namespace"], metadata["name"])
        self._api.apply(path, manifest)
        super()._send_witness(revision)

    def _await(self, places: Mapping[str, Place], revision: str, limit: float) -> None:
        super()._await({w: p for w, p in places.items() if self._has_envoy(w)}, revision, limit)
        pods, istiod = self._tunneled(places), self._istiod()

        def probe() -> None:
            tunnels = self._ask_tunnels(pods)
            synced = read_syncz(istiod("/debug/syncz"))
            for workload, place in pods.items():
                said = tunnels[place.node]
                if isinstance(said, LabError):
                    raise NotYet(str(said))
                ztunnel, tunnel = said
                check_rejected(synced, ztunnel)
                lag = ", ".join(self._lag(workload, place, tunnel, revision))
                if why := f"lacks {lag} for {workload}" if lag else synced[ztunnel].lag:
                    raise NotYet(f"{ztunnel} on {place.node} {why}")

        if pods:
            wait_until(f"revision {revision} in force at ztunnels", probe, limit=limit, interval=0.5)

    def _looker(
        self, standing: str, synced: Mapping[str, ProxySync], places: Mapping[str, Place]
    ) -> Callable[[str, Place], ProxyState]:
        """Each ztunnel is asked once for all pods that it stands for."""
        of_envoy = super()._looker(standing, synced, places)
        tunnels = self._ask_tunnels(self._tunneled(places))

        def look(workload: str, place: Place) -> ProxyState:
            if self._has_envoy(workload):
                return of_envoy(workload, place)
            said = tunnels[place.node]
            if isinstance(said, LabError):
                return ProxyState(workload, standing, in_force=False)
            ztunnel, tunnel = said
            behind, known = self._lag(workload, place, tunnel, standing), synced.get(ztunnel)
            if known is None:
                behind += ("istiod, which its ztunnel is not connected to",)
            elif known.lag:
                behind += (f"istiod, which {known.lag}",)
            rejected = dict(known.rejected) if known else {}
            in_force = bool(standing) and not (behind or rejected)
            return ProxyState(workload, standing, in_force, behind, rejected=rejected, server="LIVE")

        return look

    def _tunneled(self, places: Mapping[str, Place]) -> dict[str, Place]:
        return {w: p for w, p in places.items() if not self._has_envoy(w)}

    def _lag(self, workload: str, place: Place, tunnel: Tunnel, revision: str) -> tuple[str, ...]:
        identity = self._topology.workload(workload).spiffe_id(self._topology.trust_domain)
        return tunnel.lag(place.proxy, identity, revision)

    def _ask_tunnels(self, pods: Mapping[str, Place]) -> Mapping[str, tuple[str, Tunnel] | LabError]:
        """By node of ``pods``: the ztunnel's name in istiod and what it says, or why it says nothing."""
        ztunnels = self._places.ztunnels()

        def ask(node: str) -> tuple[str, Tunnel] | LabError:
            try:
                place = ztunnels[node] if node in ztunnels else self._ztunnel(node)
                [dump] = self._get(place, self._guest.admin_port, _DUMP)
                return place.proxy, read_tunnel(dump)
            except LabError as e:
                return e

        nodes = sorted({place.node for place in pods.values()})
        with ThreadPoolExecutor(max(1, len(nodes))) as pool:
            return dict(zip(nodes, pool.map(ask, nodes), strict=True))
