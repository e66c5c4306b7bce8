"""When a change is in force with Istio: what istiod has, has sent, and what proxies say that they run.

istiod's own figures are not enough.  ``/debug/syncz`` says what each proxy has acknowledged of what was *sent*; a
proxy that istiod has not come to yet is as synced as one that is done, and a forced push sends the last
configuration that was computed, which may be older than the change (istiod waits 100 ms and up to 10 s for more
changes before it computes).  So a change is followed by a *witness*: once istiod holds every resource at its
stored version (``/debug/configz``), an EnvoyFilter is applied that gives every proxy a cluster named after the
revision.  Whatever istiod computes with the witness in it, it computes with the change in it; the proxy that has
the cluster, and has acknowledged all that was sent since, has the change.  An EnvoyFilter, because it reaches
gateways, machines outside the cluster, and proxies whose Sidecar resource hides services from them; and because a
change of one makes istiod send clusters, listeners and routes, in that order.

docs/decisions/0005 has what was seen without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from testbed.errors import MeshError
from testbed.resources import Key
from testbed.waiting import NotYet, wait_until

WITNESS = "testbed-revision"
"""Name of the EnvoyFilter, and how the cluster's name begins."""

Ask = Callable[[str], bytes]
"""The body of ``GET path``, also of an answer with an error's status."""


def witness(revision: str, root_namespace: str = "istio-system") -> dict[str, Any]:
    """The EnvoyFilter that gives every proxy of the mesh the cluster ``testbed-revision|REVISION``.

    In the root namespace it is for all namespaces (Istio's EnvoyFilter reference).  The cluster has no endpoints.
    """
    cluster = {"name": f"{WITNESS}|{revision}", "type": "STATIC", "connect_timeout": "1s"}
    patch = {"applyTo": "CLUSTER", "match": {"context": "ANY"}, "patch": {"operation": "ADD", "value": cluster}}
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": WITNESS, "namespace": root_namespace},
        "spec": {"configPatches": [patch]},
    }


@dataclass(frozen=True)
class ProxySync:
    """What istiod has sent to one proxy, and what the proxy has answered."""

    proxy: str
    """``NAME.NAMESPACE``, of the pod or the machine's workload."""
    behind: tuple[str, ...] = ()
    """Types (``Cluster``, ``RouteConfiguration``, ...) that were sent and not acknowledged."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Type -> Envoy's reason."""
    versions: Mapping[str, int] = field(default_factory=dict)
    """Type -> which of istiod's computations was sent last; they are counted from its start."""

    @property
    def lag(self) -> str:
        """What is still to come, or empty: something unacknowledged, or a computation sent by half."""
        if self.behind:
            return f"has not acknowledged {', '.join(self.behind)}"
        first = self.versions.get(_SENT_IN_ORDER[0], 0)
        late = [kind for kind in _SENT_IN_ORDER[1:] if self.versions.get(kind, first) < first]
        return f"has not been sent {', '.join(late)}" if late else ""


_SENT_IN_ORDER = ("Cluster", "Listener", "RouteConfiguration")

_NONCE = re.compile(r"^.*/(\d+)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
"""``TIME/COUNT`` and a random UUID, with nothing between them."""


def read_syncz(text: bytes) -> Mapping[str, ProxySync]:
    """istiod's ``/debug/syncz`` by proxy.  One that is connected twice (an old connection not yet noticed to be
    gone) counts as its last."""
    found = {}
    for entry in json.loads(text):
        types: dict[str, Any] = entry.get("resources") or {}
        behind, rejected, versions = [], {}, {}
        for url, status in sorted(types.items()):
            kind = url.rpartition(".")[2]
            if match := _NONCE.match(status.get("sent", "")):
                versions[kind] = int(match[1])
            if status.get("lastError"):
                rejected[kind] = status["lastError"]
            elif status.get("sent") and status["sent"] != status.get("acked"):
                behind.append(kind)
        found[entry["proxy"]] = ProxySync(entry["proxy"], tuple(behind), rejected, versions)
    return found


def read_configz(text: bytes) -> Mapping[Key, str]:
    """istiod's ``/debug/configz``: the version of each resource that it works with."""
    found = {}
    for entry in json.loads(text) or []:
        metadata = entry["metadata"]
        group = entry["apiVersion"].rpartition("/")[0]
        key = Key(group, entry["kind"], metadata.get("namespace", ""), metadata["name"])
        found[key] = str(metadata.get("resourceVersion", ""))
    return found


def await_known(istiod: Ask, stored: Mapping[Key, str], removed: Iterable[Key], *, limit: float) -> None:
    """Wait until istiod holds every resource at its stored version and none of the removed ones.

    Resources of kinds that istiod does not list (Gateway API's are turned into its own) are not waited for.
    """
    gone = [k for k in removed if k.group.endswith(".istio.io")]
    wanted = {k: v for k, v in stored.items() if k.group.endswith(".istio.io")}

    def probe() -> None:
        known = read_configz(istiod("/debug/configz"))
        for key, version in wanted.items():
            if known.get(key) != version:
                raise NotYet(f"istiod has {key} at {known.get(key) or 'no'} version, the API at {version}")
        for key in gone:
            if key in known:
                raise NotYet(f"istiod still has {key}")

    wait_until("resources known to istiod", probe, limit=limit, next_step="look at istiod's log")


def await_proxies(
    istiod: Ask, proxies: Mapping[str, Ask], revision: str, *, limit: float, interval: float = 0.2
) -> None:
    """Wait until each of ``proxies`` (name in istiod -> its admin port) has the witness of ``revision``, has
    acknowledged all that was sent to it, and holds nothing that is warming or draining.

    Raises :class:`MeshError` as soon as one rejects something, :class:`WaitTimeout` naming the one that lags.
    """

    def probe() -> None:
        for name, dump in everywhere(CLUSTERS):
            if why := _revision_lag(dump, revision):
                check_rejected(read_syncz(istiod("/debug/syncz")), name)
                raise NotYet(f"{name} {why}")
        # after the witness was seen everywhere: what was sent before it says nothing
        synced = read_syncz(istiod("/debug/syncz"))
        for name in proxies:
            check_rejected(synced, name)
            if why := synced[name].lag:
                raise NotYet(f"{name} {why}")
        for name, stats in everywhere(SETTLING):
            if why := _unsettled(stats):
                raise NotYet(f"{name} {why}")

    def everywhere(path: str) -> Iterable[tuple[str, bytes]]:
        return zip(proxies, pool.map(lambda admin: admin(path), proxies.values()), strict=True)

    with ThreadPoolExecutor(max_workers=max(1, len(proxies))) as pool:
        wait_until(f"revision {revision} in force", probe, limit=limit, interval=interval)


CLUSTERS = "/config_dump?resource=dynamic_active_clusters&mask=cluster.name"
"""Where an admin port says what :func:`revisions_of` reads."""

SETTLING = "/stats?filter=(warming_clusters|total_listeners_warming|total_(listeners|filter_chains)_draining)$"
"""Where it says what :func:`busy` reads.  Istio's proxies keep these, and no figures of single clusters."""


def check_rejected(synced: Mapping[str, ProxySync], name: str) -> None:
    """Raise :class:`MeshError` for what the proxy rejected, :class:`NotYet` when istiod does not know it."""
    if name not in synced:
        raise NotYet(f"{name} is not connected to istiod")
    for kind, why in synced[name].rejected.items():
        raise MeshError(name, f"take up {kind}", why, f"testbed proxy {name.partition('.')[0]} log")


def revisions_of(dump: bytes) -> tuple[str, ...]:
    """The revisions whose witness a proxy has: one, unless it is between two."""
    # while it has no dynamic cluster at all, Envoy answers 404 and a sentence
    configs = json.loads(dump).get("configs", []) if dump.startswith(b"{") else []
    names = sorted(entry["cluster"]["name"] for entry in configs)
    return tuple(n.partition("|")[2] for n in names if n.startswith(f"{WITNESS}|"))


def busy(stats: bytes) -> Mapping[str, int]:
    """What is warming, or old and still holds callers' connections: figure -> how many, where it is not 0."""
    values = dict(line.rpartition(": ")[::2] for line in stats.decode().splitlines() if ": " in line)
    return {name.rpartition(".")[2]: int(value) for name, value in sorted(values.items()) if value != "0"}


def _revision_lag(dump: bytes, revision: str) -> str:
    has = revisions_of(dump)
    if revision in has:
        return ""
    return f"has revision {has[0]}" if has else "has no revision"


def _unsettled(stats: bytes) -> str:
    found = busy(stats)
    return f"settles: {', '.join(f'{name} {value}' for name, value in found.items())}" if found else ""
