"""Consistent hashing: what of a request is hashed."""

from __future__ import annotations

from envoy.config.route.v3.route_components_pb2 import RouteAction

from testbed.compiler.protobuf import duration
from testbed.resources.destination_rule import ConsistentHashLB, DestinationRule, TrafficPolicy
from testbed.resources.values import Destination


def hash_policy(hashing: ConsistentHashLB | None) -> RouteAction.HashPolicy | None:
    """Envoy's policy for a route."""
    if hashing is None:
        return None
    out = RouteAction.HashPolicy()
    if hashing.http_header_name is not None:
        out.header.header_name = hashing.http_header_name
    elif hashing.http_cookie is not None:
        cookie = hashing.http_cookie
        out.cookie.name = cookie.name
        out.cookie.path = cookie.path
        if cookie.ttl is not None:
            out.cookie.ttl.CopyFrom(duration(cookie.ttl))
        for attribute in cookie.attributes:
            out.cookie.attributes.add(name=attribute.name, value=attribute.value)
    elif hashing.use_source_ip is not None:
        out.connection_properties.source_ip = hashing.use_source_ip
    elif hashing.http_query_parameter_name is not None:
        out.query_parameter.name = hashing.http_query_parameter_name
    else:
        return None
    return out


def _of_policy(policy: TrafficPolicy | None, port: int | None) -> tuple[ConsistentHashLB | None, ...]:
    """A policy's hashing: for the port, and in general."""
    if policy is None:
        return None, None
    general = policy.load_balancer.consistent_hash if policy.load_balancer else None
    for setting in policy.port_level_settings:
        if setting.port is not None and setting.port.number == port:
            return (setting.load_balancer.consistent_hash if setting.load_balancer else None), general
    return None, general


def hash_of_port(rule: DestinationRule | None, port: int) -> ConsistentHashLB | None:
    """Hashing of a service's port that is called without a VirtualService."""
    if rule is None:
        return None
    narrow, general = _of_policy(rule.traffic_policy, port)
    return narrow or general


def hash_of_destination(rule: DestinationRule | None, destination: Destination) -> ConsistentHashLB | None:
    """Hashing of a destination: the subset's port, the subset, the port, the rule, in that order.

    Port settings count only where the destination names its port (istiod's HashForHTTPDestination).
    """
    if rule is None:
        return None
    port = destination.port.number if destination.port else None
    subset = next((s.traffic_policy for s in rule.subsets if s.name == destination.subset), None)
    sub_narrow, sub_general = _of_policy(subset, port)
    narrow, general = _of_policy(rule.traffic_policy, port)
    return sub_narrow or sub_general or narrow or general
