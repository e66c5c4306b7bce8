"""Istio's ambient mode: how it is installed, and what a node's ztunnel says of the pods that it stands for.  Pure.

Pods have no Envoy of their own.  Istio's CNI agent redirects what leaves and reaches them to the ztunnel of their
node, which speaks for each with that pod's own certificate (HBONE: mutual TLS to port 15008).  Gateways stay
Envoys, and so do workloads on machines outside the cluster, which istiod lets speak HBONE to pods.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.backends.istio.distribution import WITNESS

MODE_LABEL = "istio.io/dataplane-mode"
"""On a namespace, or on a pod, which counts more: ``ambient`` or ``none``."""

CAPTURED = "ambient.istio.io/redirection"
"""The annotation that the CNI agent gives a pod: ``enabled`` once its traffic goes through ztunnel."""

IDLE = "10s"
"""How long an Envoy keeps a tunnel that nobody uses; an hour is Istio's default."""

ENV = {
    # a status that istiod writes into a policy makes a new version of it, which nobody applied
    "AMBIENT_ENABLE_STATUS": "false",
}

PROXY_METADATA = {
    "ISTIO_META_ENABLE_HBONE": "true",
    # else a bootstrap extension of Istio's build is asked for, which only names peers in statistics
    "PEER_METADATA_DISCOVERY": "false",
}
"""Of every Envoy, in pods and on machines: environment of Istio's agent beside it."""


def in_ambient(operator: Mapping[str, Any]) -> dict[str, Any]:
    """The IstioOperator document with what ambient mode adds to it."""
    spec = dict(operator["spec"])
    values = dict(spec["values"])
    values |= {
        # the profile wants images without a shell, which are others than the releases' archives
        "global": {**values["global"], "variant": ""},
        "pilot": {**values["pilot"], "env": {**values["pilot"]["env"], **ENV}},
        # the lab's networks are IPv4
        "cni": {"ambient": {"ipv6": False}, **_small()},
        "ztunnel": _small(),
    }
    return {**operator, "spec": {**spec, "profile": "ambient", "values": values}}


def _small() -> dict[str, Any]:
    return {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}}


def plain_hbone(root_namespace: str = "istio-system") -> dict[str, Any]:
    """The EnvoyFilter with which an Envoy without the filters of Istio's build takes HBONE.

    istiod's listener for it has two such filters.  One only names peers in statistics.  The other keeps who calls,
    and whom, for the listener behind it: a filter of Envoy's own that makes its values in Istio's way, in place of
    which Envoy's does.
    """
    state = {
        # where the tunnel leads, and what policies and access logs know of the two ends
        "envoy.filters.listener.original_dst.local_ip": ("%REQ(:AUTHORITY)%", ""),
        "envoy.filters.listener.original_dst.remote_ip": ("%DOWNSTREAM_REMOTE_ADDRESS%", ""),
        "io.istio.peer_principal": ("%DOWNSTREAM_PEER_URI_SAN%", "envoy.string"),
        "io.istio.local_principal": ("%DOWNSTREAM_LOCAL_URI_SAN%", "envoy.string"),
    }
    values = [
        {
            "object_key": key,
            "format_string": {"text_format_source": {"inline_string": text}},
            "shared_with_upstream": "ONCE",
            **({"factory_key": factory} if factory else {}),
        }
        for key, (text, factory) in state.items()
    ]
    config = {"@type": f"type.googleapis.com/{_SET_STATE}", "on_request_headers": values}
    replaced = {"name": "connect_authority", "typed_config": config}
    patches = [
        _patch("waypoint_downstream_peer_metadata", {"operation": "REMOVE"}),
        _patch("connect_authority", {"operation": "REPLACE", "value": replaced}),
    ]
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "testbed-hbone", "namespace": root_namespace},
        "spec": {"configPatches": patches},
    }


_SET_STATE = "envoy.extensions.filters.http.set_filter_state.v3.Config"


def _patch(http_filter: str, patch: Mapping[str, Any]) -> dict[str, Any]:
    """A patch of an HTTP filter in a sidecar's listener for HBONE, as istiod names both."""
    manager = {"name": "envoy.filters.network.http_connection_manager", "subFilter": {"name": http_filter}}
    listener = {"name": "connect_terminate", "filterChain": {"filter": manager}}
    match = {"context": "SIDECAR_INBOUND", "listener": listener}
    return {"applyTo": "HTTP_FILTER", "match": match, "patch": dict(patch)}


def tunnel_witness(revision: str, root_namespace: str = "istio-system") -> dict[str, Any]:
    """The policy by which a ztunnel is known to have the revision: an EnvoyFilter does not reach it.

    It is for no workload, and would refuse nobody: no namespace is called so.
    """
    source = {"namespaces": [f"{WITNESS}.{revision}"]}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": WITNESS, "namespace": root_namespace},
        "spec": {
            "selector": {"matchLabels": {WITNESS: "nobody"}},
            "action": "DENY",
            "rules": [{"from": [{"source": source}]}],
        },
    }


@dataclass(frozen=True)
class Tunnel:
    """What one ztunnel says of itself."""

    revisions: tuple[str, ...] = ()
    """Whose witness it has: one, or none before the first."""
    pods: Mapping[str, str] = field(default_factory=dict)
    """``NAME.NAMESPACE`` of the pods that it stands for -> ``Up`` or ``Pending``."""
    certificates: Mapping[str, str] = field(default_factory=dict)
    """SPIFFE id -> ``Available``, or what keeps it from having that certificate."""

    def lag(self, pod: str, identity: str, revision: str) -> tuple[str, ...]:
        """What is missing until ``pod``, whose ``identity`` that is, has the revision; empty when nothing is."""
        found = []
        if revision not in self.revisions:
            found.append(f"revision {revision}")
        if (state := self.pods.get(pod, "")) != "Up":
            found.append(f"capture by ztunnel{f' ({state.lower()})' if state else ''}")
        elif (certificate := self.certificates.get(identity, "none yet")) != "Available":
            found.append(f"certificate ({certificate})")
        return tuple(found)


def read_tunnel(dump: bytes) -> Tunnel:
    """ztunnel's ``/config_dump``."""
    config = json.loads(dump)
    mine = [p for p in config.get("policies") or () if p.get("name") == WITNESS]
    prefix = f"{WITNESS}."
    revisions = {text.removeprefix(prefix) for text in _texts(mine) if text.startswith(prefix)}
    pods = {}
    for state in (config.get("workloadState") or {}).values():
        info = state["info"]
        pods[f"{info['name']}.{info['namespace']}"] = str(state["state"])
    certificates = {str(c["identity"]): str(c["state"]) for c in config.get("certificates") or ()}
    return Tunnel(tuple(sorted(revisions)), pods, certificates)


def _texts(value: Any) -> Iterable[str]:
    """Every text in a JSON value: how rules are nested is the ztunnel's own business."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
