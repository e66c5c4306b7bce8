"""Istio's control plane as it is installed: settings from the inventory, and objects in the order that they go in.

Pure.  ``istioctl manifest generate`` (of the release's archive, on the lab host) makes objects of the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.backends.istio.ambient import IDLE, PROXY_METADATA, in_ambient
from testbed.backends.istio.revisions import SYSTEM, revision_of
from testbed.compiler.accesslog import FIELDS
from testbed.model.clusters import SERVER_ROLE, istiod_address
from testbed.model.inventory import Inventory

ACCESS_LOG = "/var/log/testbed/access.log"
"""Of every proxy, in its container or unit; each has a folder of its own mounted there."""

DRAIN = "3s"
"""How long a proxy leaves an old listener to its connections: a change is in force when they are gone."""

MOVED_AFTER = 20
"""Seconds that istiod stays on a server that is lost to the cluster, which takes some 40 s to call it so."""

Manifest = Mapping[str, Any]

_FIRST = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "ClusterRole", "Role", "Secret", "ConfigMap")
WEBHOOKS = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")

_TAG_LABEL = "istio.io/tag"
_VALIDATOR = "istiod-default-validator"


def operator(inventory: Inventory, version: str, *, plain_envoy: bool) -> dict[str, Any]:
    """The IstioOperator document that ``istioctl`` reads.

    ``plain_envoy``: the release's proxy is Envoy without the filters that Istio's own build adds (metadata
    exchange, ALPN override and statistics), which istiod must then not ask for: a proxy rejects a listener with a
    filter that it lacks.
    """
    env: dict[str, str] = {}
    if plain_envoy:
        env = {"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false"}
    document = {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": {"name": "testbed", "namespace": SYSTEM},
        "spec": {
            "profile": "minimal",
            "hub": "docker.io/istio",
            "tag": version,
            "revision": revision_of(version),
            "meshConfig": mesh_config(inventory),
            "values": {
                "global": {
                    "platform": "k3s",
                    "imagePullPolicy": "IfNotPresent",
                    "proxy": {"resources": _requests("10m", "64Mi")},
                    "proxy_init": {"resources": _requests("10m", "16Mi")},
                },
                "pilot": {
                    "autoscaleEnabled": False,
                    "env": env,
                    "nodeSelector": {SERVER_ROLE: "true"},
                    **_moves(inventory),
                    # a request is what the scheduler keeps free, and a lab's machines are small
                    "resources": _requests("50m", "256Mi"),
                },
                "telemetry": {"enabled": not plain_envoy},
                # resources that name no revision are checked by this one, pods that name none are injected by it
                "defaultRevision": revision_of(version),
                "revisionTags": ["default"],
            },
        },
    }
    return in_ambient(document) if inventory.mesh.is_ambient else document


def _moves(inventory: Inventory) -> dict[str, Any]:
    """Of several servers another one gets istiod soon after its own is lost; Kubernetes waits five minutes.  The
    only server keeps it: there is no other, and a busy one misses its heartbeats now and then."""
    if len(inventory.servers()) == 1:
        return {}
    lost = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
    common = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": MOVED_AFTER}
    return {"tolerations": [{"key": key, **common} for key in lost]}


def mesh_config(inventory: Inventory) -> dict[str, Any]:
    """Istio's MeshConfig: what a lab needs, and the inventory's own settings over it."""
    own = dict(inventory.mesh.config)
    proxy = {
        # one worker: ROUND_ROBIN is exact per worker only
        "concurrency": 1,
        "drainDuration": DRAIN,
        "terminationDrainDuration": DRAIN,
        **own.pop("defaultConfig", {}),
    }
    ambient: dict[str, Any] = {}
    if inventory.mesh.is_ambient:
        ambient = {"hboneIdleTimeout": IDLE}
        proxy["proxyMetadata"] = {**PROXY_METADATA, **proxy.get("proxyMetadata", {})}
    return {
        "trustDomain": inventory.mesh.trust_domain,
        "accessLogFile": ACCESS_LOG,
        "accessLogEncoding": "JSON",
        "accessLogFormat": _access_log_format(),
        "enableAutoMtls": True,
        "defaultConfig": proxy,
        **ambient,
        **own,
    }


def around(inventory: Inventory, cacerts: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """What must be there before istiod starts: its namespace, and the lab's CA as the one that it signs with.

    ``cacerts`` has Istio's file names (its task "Plug in CA Certificates"): pods and machines share the lab's root.
    """
    data = {name: content.decode() for name, content in sorted(cacerts.items())}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "cacerts", "namespace": SYSTEM},
            "type": "Opaque",
            "stringData": data,
        },
    ]


@dataclass(frozen=True)
class Installation:
    """A control plane's objects, in the order in which they go in."""

    beside: tuple[Manifest, ...]
    """What can stand beside another revision's."""
    current: tuple[Manifest, ...]
    """What says which revision is the one for whatever names none; they go in once istiod is available."""

    @property
    def webhooks(self) -> tuple[Manifest, ...]:
        """What the API asks istiod by."""
        return tuple(m for m in (*self.beside, *self.current) if m["kind"] in WEBHOOKS)


def installation(manifests: Iterable[Manifest], inventory: Inventory, version: str) -> Installation:
    """Generated objects as they go in: what others need first, webhooks last.

    The current revision's istiod has the fixed address that machines outside the cluster know, by the name
    ``istiod``, which every revision's certificate has.
    """
    found = sorted((_lenient(m) for m in manifests if m), key=_rank)
    current = [m for m in found if _is_current(m)]
    own = f"istiod-{revision_of(version)}"
    stable = [_stable(m, inventory) for m in found if (m["kind"], m["metadata"]["name"]) == ("Service", own)]
    return Installation(tuple(m for m in found if m not in current), (*stable, *current))


def _is_current(manifest: Manifest) -> bool:
    metadata = manifest["metadata"]
    return _TAG_LABEL in metadata.get("labels", {}) or metadata["name"] == _VALIDATOR


def _stable(service: Manifest, inventory: Inventory) -> dict[str, Any]:
    spec = {**service["spec"], "clusterIP": str(istiod_address(inventory))}
    return {**service, "metadata": {**service["metadata"], "name": "istiod"}, "spec": spec}


def _lenient(manifest: Manifest) -> dict[str, Any]:
    made = dict(manifest)
    if made["kind"] in WEBHOOKS:
        # istiod writes its certificate and how strict they are into these itself, under its own name
        made["webhooks"] = [{k: v for k, v in w.items() if k != "failurePolicy"} for w in made["webhooks"]]
    return made


def _rank(manifest: Manifest) -> int:
    kind = manifest["kind"]
    if kind in _FIRST:
        return _FIRST.index(kind)
    return len(_FIRST) + 1 + WEBHOOKS.index(kind) if kind in WEBHOOKS else len(_FIRST)


def _requests(cpu: str, memory: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}}


def _access_log_format() -> str:
    pairs = ", ".join(f'"{key}": "{value}"' for key, value in FIELDS.items())
    return f"{{{pairs}}}\n"
