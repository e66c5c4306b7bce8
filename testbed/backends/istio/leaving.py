"""How a pod is made to leave its node: its successor is there first, where its Deployment can have it so."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from testbed.backends.istio.api import ApiRefused, KubeApi

RESTARTED = "testbed.dev/restarted"
"""Annotation of a Deployment's template that changes when its pod shall leave its node."""

MANAGER = "testbed-moves"
"""Owns that annotation: what the lab applies to the Deployment leaves it alone."""

_TOO_MANY = 429
"""A PodDisruptionBudget allows no further eviction now."""

Object = Mapping[str, Any]


def let_go(api: KubeApi, namespace: str, name: str) -> None:
    """Make the pod leave its node.  One that has gone, or is about to, is as good.

    A Deployment of one pod that may have its successor beside it is rolled, as ``kubectl rollout restart`` does:
    evicted, its workload would be away for as long as another pod takes to start.  All else is evicted.
    """
    pod = _there(api, f"/api/v1/namespaces/{namespace}/pods/{name}")
    if pod is None or pod["metadata"].get("deletionTimestamp"):
        return
    deployment = _deployment_of(api, pod)
    if deployment is None or not keeps_serving(deployment["spec"]):
        _evict(api, namespace, name)
        return
    template = deployment["spec"]["template"]["metadata"].get("annotations") or {}
    made_with = pod["metadata"].get("annotations") or {}
    if template.get(RESTARTED) == made_with.get(RESTARTED):  # else it has a successor already
        _roll(api, namespace, deployment["metadata"]["name"])


def keeps_serving(spec: Object) -> bool:
    """Whether a Deployment of one pod has another one before it loses this."""
    strategy = spec.get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    if spec.get("replicas", 1) != 1 or strategy.get("type") != "RollingUpdate":
        return False
    # a share is rounded down (Deployment's maxUnavailable): of one pod nothing below all of it
    return str(rolling.get("maxUnavailable", "25%")) not in ("1", "100%")


def _deployment_of(api: KubeApi, pod: Object) -> Object | None:
    namespace = pod["metadata"]["namespace"]
    for kind, plural in (("ReplicaSet", "replicasets"), ("Deployment", "deployments")):
        owners = pod["metadata"].get("ownerReferences") or []
        owner = next((o["name"] for o in owners if o["kind"] == kind), None)
        found = _there(api, f"/apis/apps/v1/namespaces/{namespace}/{plural}/{owner}") if owner else None
        if found is None:
            return None
        pod = found
    return pod


def _there(api: KubeApi, path: str) -> Object | None:
    try:
        return api.get(path)
    except ApiRefused as e:
        if e.code != 404:
            raise
        return None


def _roll(api: KubeApi, namespace: str, name: str) -> None:
    annotations = {RESTARTED: datetime.now(UTC).isoformat(timespec="milliseconds")}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {"metadata": {"annotations": annotations}}},
    }
    api.apply(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}", manifest, manager=MANAGER)


def _evict(api: KubeApi, namespace: str, name: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    metadata = {"name": name, "namespace": namespace}
    try:
        api.post(path, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata})
    except ApiRefused as e:
        if e.code not in (404, _TOO_MANY):
            raise
