"""Istio's own rules for its kinds, beyond the types of fields (as its webhook has them in release 1.30)."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.resources.authentication import PeerAuthentication, RequestAuthentication
from testbed.resources.authorization import AuthorizationPolicy
from testbed.resources.destination_rule import DestinationRule
from testbed.resources.gateway import Gateway
from testbed.resources.resource import Resource
from testbed.resources.service_entry import ServiceEntry, WorkloadEntry
from testbed.resources.sidecar import Sidecar
from testbed.resources.telemetry import Telemetry
from testbed.resources.validation import security, service_entry
from testbed.resources.validation.destination_rule import destination_rule
from testbed.resources.validation.gateway import gateway, sidecar
from testbed.resources.validation.kubernetes_gateway import kubernetes_gateway
from testbed.resources.validation.names import Finding
from testbed.resources.validation.virtual_service import virtual_service
from testbed.resources.values import Message
from testbed.resources.virtual_service import VirtualService


def check(resource: Resource[Message]) -> Iterator[Finding]:
    """What Istio's webhook would refuse: the path in the document, what is wrong, what to write."""
    spec, namespace, at = resource.spec, resource.namespace, ("spec",)
    match spec:
        case VirtualService():
            yield from virtual_service(spec, namespace, at)
        case DestinationRule():
            yield from destination_rule(spec, namespace, at)
        case Gateway():
            yield from gateway(spec, resource.name, at)
        case Sidecar():
            yield from sidecar(spec, at)
        case ServiceEntry():
            yield from service_entry.service_entry(spec, namespace, at)
        case WorkloadEntry():
            yield from service_entry.workload_entry(spec, at)
        case PeerAuthentication():
            yield from security.peer_authentication(spec, at)
        case RequestAuthentication():
            yield from security.request_authentication(spec, at)
        case AuthorizationPolicy():
            yield from security.authorization_policy(spec, resource.annotations, at)
        case Telemetry():
            yield from security.telemetry(spec, at)
        case _:
            yield from kubernetes_gateway(spec, at)
    if security.DRY_RUN in resource.annotations and not isinstance(spec, AuthorizationPolicy):
        yield ("metadata", "annotations", security.DRY_RUN), "dry-run is for AuthorizationPolicy only", "remove it"
