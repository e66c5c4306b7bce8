"""Objects of a lab into a cluster, and what the cluster says of them: what is installed, what is available."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.backends.istio.api import ApiRefused, KubeApi
from testbed.backends.istio.applying import LAB_LABEL
from testbed.backends.istio.installing import WEBHOOKS
from testbed.backends.istio.revisions import REVISION_LABEL, SYSTEM, Part
from testbed.errors import LabError
from testbed.waiting import NotYet

DIGESTS_NAMESPACE, DIGESTS = "kube-system", "testbed"
"""The ConfigMap with the content hash of each part that was installed, written when the part is there."""

_COMPONENT = "operator.istio.io/component"

_PRUNED = (
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("networking.istio.io/v1", "WorkloadGroup"),
)
"""Kinds of which what is no longer wanted is deleted.  Namespaces and accounts stay: they do nothing."""


@dataclass(frozen=True)
class Health:
    """Whether something is there, and what was seen when it is not."""

    ready: bool
    seen: str = ""


class LabObjects:
    """What is installed in the cluster for the lab ``lab``."""

    def __init__(self, api: KubeApi, lab: str) -> None:
        self._api = api
        self._lab = lab

    def apply(
        self, manifests: Iterable[Mapping[str, Any]], on_each: Callable[[str], None] = lambda _: None
    ) -> None:
        """Server-side apply of each, in this order.

        A kind that was defined a moment ago is waited for by the caller: it is unknown at first (404).
        """
        for manifest in manifests:
            on_each(f"{manifest['kind']} {manifest['metadata']['name']}")
            self._api.apply(self._path(manifest), manifest)

    def remove(self, parts: Iterable[Part]) -> None:
        """Delete what is there of ``parts``, in this order."""
        for part in parts:
            self._api.delete(self._api.path(part.api_version, part.kind, part.namespace, part.name))

    def revisions(self) -> frozenset[str]:
        """Istio's revisions in the cluster: from the settings that each begins with, and is removed with."""
        found = self._api.every(self._api.path("v1", "ConfigMap", SYSTEM), REVISION_LABEL)
        labels = [item["metadata"]["labels"] for item in found]
        return frozenset(each[REVISION_LABEL] for each in labels if each.get(_COMPONENT) == "Pilot")

    def vouched(self, manifests: Iterable[Mapping[str, Any]]) -> None:
        """Raise :class:`NotYet` while the API has no certificate to know istiod by at its webhooks."""
        for manifest in manifests:
            if manifest["kind"] in WEBHOOKS:
                there = self._api.get(self._path(manifest))
                if not all(w["clientConfig"].get("caBundle") for w in there["webhooks"]):
                    raise NotYet(f"{manifest['metadata']['name']} has no certificate of istiod")

    def prune(self, wanted: Iterable[Mapping[str, Any]]) -> None:
        """Delete what carries the lab's label and is not among ``wanted``."""
        keep = {(m["kind"], m["metadata"].get("namespace", ""), m["metadata"]["name"]) for m in wanted}
        for version, kind in _PRUNED:
            for item in list(self._api.every(self._api.path(version, kind), f"{LAB_LABEL}={self._lab}")):
                metadata = item["metadata"]
                if (kind, metadata.get("namespace", ""), metadata["name"]) not in keep:
                    self._api.delete(self._api.path(version, kind, metadata.get("namespace", ""), metadata["name"]))

    def known(self, api_version: str, kind: str) -> None:
        """Raise :class:`NotYet` while the API does not serve the kind."""
        try:
            self._api.path(api_version, kind)
        except ApiRefused as e:
            if e.code != 404:
                raise
            raise NotYet(f"the API has no {kind} of {api_version}") from None

    def available(self, manifests: Iterable[Mapping[str, Any]]) -> None:
        """Raise :class:`NotYet`, saying what its pods wait for, while a Deployment among them is not available."""
        for manifest in manifests:
            if manifest["kind"] == "Deployment":
                health = self._deployment(manifest)
                if not health.ready:
                    raise NotYet(f"{manifest['metadata']['name']}: {health.seen}")

    def is_available(self, deployment: Mapping[str, Any]) -> bool:
        """Whether a Deployment of this name is there, with all its pods ready."""
        return self._there(self._path(deployment)) is not None and self._deployment(deployment).ready

    def digests(self) -> Mapping[str, str]:
        """Part -> content hash of what was installed."""
        found = self._there(self._digests_path) or {}
        return dict(found.get("data") or {})

    def note(self, part: str, digest: str) -> None:
        """Write down that the part is there as ``digest`` describes it."""
        data = {**self.digests(), part: digest}
        metadata = {"name": DIGESTS, "namespace": DIGESTS_NAMESPACE}
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        self._api.apply(self._digests_path, manifest)

    def token(self, namespace: str, account: str, audience: str, seconds: int) -> str:
        """A token of the service account (the API's TokenRequest), good for so many seconds."""
        path = self._api.path("v1", "ServiceAccount", namespace, account) + "/token"
        spec = {"audiences": [audience], "expirationSeconds": seconds}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(self._api.post(path, request)["status"]["token"])

    def _there(self, path: str) -> dict[str, Any] | None:
        try:
            return self._api.get(path)
        except ApiRefused as e:
            if e.code == 404:
                return None
            raise

    @property
    def _digests_path(self) -> str:
        return self._api.path("v1", "ConfigMap", DIGESTS_NAMESPACE, DIGESTS)

    def _path(self, manifest: Mapping[str, Any]) -> str:
        metadata = manifest["metadata"]
        return self._api.path(
            manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"]
        )

    def _deployment(self, manifest: Mapping[str, Any]) -> Health:
        found = self._api.get(self._path(manifest))
        status, generation = found.get("status") or {}, found["metadata"]["generation"]
        wanted = found["spec"].get("replicas", 1)
        current = status.get("observedGeneration", 0) >= generation and status.get("updatedReplicas", 0) >= wanted
        if current and status.get("availableReplicas", 0) >= wanted and status.get("replicas", 0) == wanted:
            return Health(True)
        labels = found["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
        pods = self._api.every(self._api.path("v1", "Pod", found["metadata"]["namespace"]), selector)
        said = [f"{p['metadata']['name']}{_place(p)} {pod_state(p)}" for p in pods]
        return Health(False, "; ".join(said) or "no pod yet")


def node_state(api: KubeApi, node: str, version: str = "") -> Health:
    """Whether the node is Ready, or what its Ready condition says; with ``version``, by a kubelet of that."""
    try:
        found = api.get(api.path("v1", "Node", "", node))
    except ApiRefused as e:
        if e.code == 404:
            return Health(False, "the API knows no such node")
        return Health(False, str(e.cause))
    except LabError as e:
        return Health(False, str(e))
    conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", [])}
    ready = conditions.get("Ready")
    if ready is None:
        return Health(False, "it has told nothing of its state")
    runs = found["status"].get("nodeInfo", {}).get("kubeletVersion", "")
    if version and runs != version:
        return Health(False, f"its kubelet is still {runs}")
    return Health(ready["status"] == "True", f"Ready is {ready['status']}: {ready.get('message', '')}")


def _place(pod: Mapping[str, Any]) -> str:
    node = (pod.get("spec") or {}).get("nodeName")
    return f" on {node}" if node else ""


def pod_state(pod: Mapping[str, Any]) -> str:
    """Why a pod is not ready, as briefly as the API tells it."""
    status = pod.get("status") or {}
    for group in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(group) or []:
            state = container.get("state") or {}
            waiting, ended = state.get("waiting"), state.get("terminated")
            if waiting:
                return (
                    f"{container['name']} waits: {waiting.get('reason', '')} {waiting.get('message', '')}".strip()
                )
            if ended and ended.get("exitCode"):
                return f"{container['name']} ended with status {ended['exitCode']}"
    for condition in status.get("conditions") or []:
        if condition.get("status") != "True" and condition.get("message"):
            return f"{condition['type']}: {condition['message']}"
    return str(status.get("phase", "Unknown"))
