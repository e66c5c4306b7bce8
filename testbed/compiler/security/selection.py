"""Which AuthorizationPolicies and RequestAuthentications a workload has to obey.

Those of the root namespace and of its own; ``selector`` picks by labels, and ``targetRefs`` a Gateway of the
Gateway API by name.  A workload that is no such gateway ignores a policy with ``targetRefs`` altogether
(istiod: pilot/pkg/model/policyattachment.go).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from testbed.model.topology import MeshWorkload, Topology
from testbed.resources.authentication import RequestAuthentication
from testbed.resources.authorization import AuthorizationPolicy
from testbed.resources.resource import Resource
from testbed.resources.values import PolicyTargetReference, selects

GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
"""The label that says which Gateway of the Gateway API a workload serves."""

Policy = TypeVar("Policy", AuthorizationPolicy, RequestAuthentication)


def attached(
    policies: Sequence[Resource[Policy]], workload: MeshWorkload, topology: Topology, *, root_first: bool
) -> Iterator[Resource[Policy]]:
    """The policies for ``workload``, namespace by namespace, each in order of age."""
    namespaces = [topology.root_namespace, workload.namespace]
    for namespace in dict.fromkeys(namespaces if root_first else reversed(namespaces)):
        for policy in policies:
            if policy.namespace == namespace and _is_for(policy, workload):
                yield policy


def _is_for(policy: Resource[Policy], workload: MeshWorkload) -> bool:
    spec = policy.spec
    targets = spec.target_refs or ((spec.target_ref,) if spec.target_ref else ())
    gateway = workload.labels.get(GATEWAY_NAME)
    if targets:
        same_namespace = policy.namespace == workload.namespace
        return gateway is not None and same_namespace and any(_names(t, gateway) for t in targets)
    return spec.selector is None or selects(spec.selector.match_labels, workload.labels)


def _names(target: PolicyTargetReference, gateway: str) -> bool:
    return (target.group, target.kind, target.name) == ("gateway.networking.k8s.io", "Gateway", gateway)
