"""Access logging, as Telemetry resources ask for it.

Unlike Istio's default mesh configuration, the lab logs everything unless a Telemetry turns it off: verdicts and
evidence are read from there.  ``envoy`` is the only provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog

from testbed.compiler.accesslog import file_log
from testbed.compiler.security.selection import GATEWAY_NAME
from testbed.model.topology import MeshWorkload, Topology
from testbed.resources.resource import ResourceSet
from testbed.resources.telemetry import AccessLogging, Telemetry, WorkloadMode
from testbed.resources.values import selects

PROVIDER = "envoy"


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
    layers = [layer.access_logging for layer in _layers(resources, workload, topology)]
    return _merged(layers, WorkloadMode.CLIENT), _merged(layers, WorkloadMode.SERVER)


def _merged(layers: Sequence[Sequence[AccessLogging]], direction: WorkloadMode) -> Logging:
    """As istiod's mergeLogs has it: a filter counts where its entry names the provider, and the last one for all.

    Providers in scope are those of the narrowest layer that names any; an entry without goes for those of the
    entry before it.  Where nothing is left of a provider that exists, everything is logged.
    """

    def meant(entry: AccessLogging) -> bool:
        return entry.match is None or entry.match.mode in (direction, WorkloadMode.CLIENT_AND_SERVER)

    scope: frozenset[str] = frozenset({PROVIDER})
    expression = ""
    for layer in layers:
        named = [e for e in layer if e.providers and meant(e)]
        scope = frozenset(p.name for e in named for p in e.providers) or scope
        for entry in named:
            if any(p.name == PROVIDER for p in entry.providers):
                expression = entry.filter.expression if entry.filter else ""
    found = Logging()
    current: frozenset[str] = frozenset({PROVIDER})
    for entry in (e for layer in layers for e in layer):
        current = frozenset(p.name for p in entry.providers) or current
        if PROVIDER in current & scope and meant(entry):
            found = Logging(enabled=False) if entry.disabled else Logging(expression=expression)
    return found


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
