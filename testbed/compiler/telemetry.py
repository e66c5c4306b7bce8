"""Access logging, as Telemetry resources ask for it.

Unlike Istio's default mesh configuration, the lab logs everything unless a Telemetry turns it off: verdicts and
evidence are read from there.  ``envoy`` is the only provider.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog

from testbed.compiler.accesslog import file_log
from testbed.compiler.security.selection import GATEWAY_NAME
from testbed.model.topology import MeshWorkload, Topology
from testbed.resources.resource import ResourceSet
from testbed.resources.telemetry import Telemetry, WorkloadMode
from testbed.resources.values import selects


@dataclass(frozen=True)
class Logging:
    """Whether and what a proxy logs in one direction: a CEL expression, empty for everything."""

    enabled: bool = True
    expression: str = ""

    def logs(self) -> list[AccessLog]:
        """The logs to configure."""
        return [file_log(self.expression)] if self.enabled else []


def logging_of(resources: ResourceSet, workload: MeshWorkload, topology: Topology) -> tuple[Logging, Logging]:
    """What the proxy logs of requests it sends (gateways: of all), and of requests it gets."""
    out = {WorkloadMode.CLIENT: Logging(), WorkloadMode.SERVER: Logging()}
    for telemetry in _layers(resources, workload, topology):
        for entry in telemetry.access_logging:
            if entry.providers and all(p.name != "envoy" for p in entry.providers):
                continue
            mode = entry.match.mode if entry.match else WorkloadMode.CLIENT_AND_SERVER
            for direction, wider in out.items():
                if mode in (direction, WorkloadMode.CLIENT_AND_SERVER):
                    # a narrower entry replaces what a wider one said, field by field
                    expression = entry.filter.expression if entry.filter else wider.expression
                    out[direction] = Logging(not entry.disabled, expression)
    return out[WorkloadMode.CLIENT], out[WorkloadMode.SERVER]


def targets(spec: Telemetry, workload: MeshWorkload) -> bool:
    """Whether ``targetRefs`` name the Gateway (of the Gateway API) that the workload serves."""
    name = workload.labels.get(GATEWAY_NAME)
    references = (*spec.target_refs, *((spec.target_ref,) if spec.target_ref else ()))
    return name is not None and any(r.kind == "Gateway" and r.name == name for r in references)


def _layers(resources: ResourceSet, workload: MeshWorkload, topology: Topology) -> Iterator[Telemetry]:
    """The root namespace's, the namespace's and the workload's own, the widest first; of each the first by name."""
    root = namespace = own = None
    for resource in resources.telemetries:
        selector = resource.spec.selector.match_labels if resource.spec.selector else {}
        if resource.spec.target_ref or resource.spec.target_refs:
            # istiod: what is attached to a Gateway is for that gateway's proxy, beside its selector's
            if resource.namespace == workload.namespace and targets(resource.spec, workload):
                own = own or resource.spec
        elif selector:
            if resource.namespace == workload.namespace and selects(selector, workload.labels):
                own = own or resource.spec
        elif resource.namespace == topology.root_namespace:
            root = root or resource.spec
        elif resource.namespace == workload.namespace:
            namespace = namespace or resource.spec
    for layer in (root, namespace, own):
        if layer is not None:
            yield layer
