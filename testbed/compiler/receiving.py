"""A sidecar's inbound side: its listeners and clusters, from the services that it is part of and its Sidecar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from testbed.compiler import clusters
from testbed.compiler.destinationrules import MergedRule, for_port
from testbed.compiler.downstreamtls import mesh_tls, server_tls
from testbed.compiler.inbound import Chains, InboundPort, bound_listener, virtual_inbound
from testbed.compiler.protobuf import LISTENER, Fragments, fragment
from testbed.compiler.security import PeerModes
from testbed.compiler.services import Registry, protocol_of
from testbed.model.topology import MeshWorkload, ServicePort, Topology
from testbed.resources.destination_rule import ConnectionPoolSettings
from testbed.resources.gateway import ServerTLSMode
from testbed.resources.sidecar import CaptureMode, IstioIngressListener, Sidecar


@dataclass(frozen=True)
class Receiving:
    """Inbound listeners and clusters."""

    listeners: Fragments
    clusters: Fragments


@dataclass(frozen=True)
class _Port:
    """A port with its limits and, from a Sidecar's ingress, where it leads."""

    inbound: InboundPort
    source: ServicePort
    pool: ConnectionPoolSettings | None
    endpoint: tuple[str, int] | None = None


def receiving(
    workload: MeshWorkload,
    topology: Topology,
    registry: Registry,
    sidecar: Sidecar | None,
    rules: Mapping[str, MergedRule | None],
    modes: PeerModes,
    http_filters: Sequence[HttpFilter],
    network_filters: Sequence[Filter],
    logs: Sequence[AccessLog],
) -> Receiving:
    """Put the inbound side together.  ``rules``: of each host that the workload answers for."""
    if sidecar is not None and sidecar.ingress:
        ports = list(_declared(sidecar, workload))
    else:
        ports = list(_of_services(registry, workload, sidecar, rules))
    chains = Chains(mesh_tls(topology.trust_domain), http_filters, network_filters, logs)
    made = [virtual_inbound([p.inbound for p in ports], modes, chains)]
    made += [bound_listener(p.inbound, modes, chains) for p in ports if p.inbound.bind]
    return Receiving(
        Fragments.of(fragment(m.name, m, LISTENER) for m in made),
        Fragments.of(clusters.inbound(p.source, p.inbound.number, p.pool, p.endpoint) for p in ports),
    )


def _of_services(
    registry: Registry,
    workload: MeshWorkload,
    sidecar: Sidecar | None,
    rules: Mapping[str, MergedRule | None],
) -> Iterator[_Port]:
    """One for each port that it listens on; of two services on the same port the first counts."""
    seen: set[int] = set()
    override = sidecar.inbound_connection_pool if sidecar is not None else None
    for service in registry.services_of(workload):
        rule = rules[service.host]
        for port in service.ports:
            for target in registry.listens(workload, service, port):
                if target in seen:
                    continue
                seen.add(target)
                # limits are set on both ends, or the receiving one would keep its defaults
                policy = for_port(rule.spec.traffic_policy, port.number)[0] if rule else None
                pool = override or (policy.connection_pool if policy else None)
                yield _Port(InboundPort(target, port.protocol), port, pool)
    for port in _rest(workload.ports, seen):
        yield _Port(InboundPort(port.target, port.protocol), port, override)


def _rest(ports: Iterable[ServicePort], seen: set[int]) -> Iterator[ServicePort]:
    for port in ports:
        if port.target not in seen:
            seen.add(port.target)
            yield port


def _declared(sidecar: Sidecar, workload: MeshWorkload) -> Iterator[_Port]:
    """A Sidecar's ingress listeners stand in place of the services' ports."""
    for listener in sidecar.ingress:
        number = listener.port.number
        protocol = protocol_of(listener.port.protocol)
        real = listener.capture_mode is CaptureMode.NONE
        bind = (listener.bind or str(workload.address)) if real else ""
        own = None
        if listener.tls is not None and listener.tls.mode is not ServerTLSMode.PASSTHROUGH:
            own = server_tls(listener.tls.as_server())
        pool = listener.connection_pool or sidecar.inbound_connection_pool
        source = ServicePort(listener.port.name, number, protocol, number)
        yield _Port(InboundPort(number, protocol, bind, own), source, pool, _endpoint(listener, workload))


def _endpoint(listener: IstioIngressListener, workload: MeshWorkload) -> tuple[str, int] | None:
    """``defaultEndpoint``: ``127.0.0.1:port``, ``0.0.0.0:port`` (the workload's own address), ``unix://path``."""
    text = listener.default_endpoint
    if not text:
        return None
    if text.startswith("unix://"):
        return text, 0
    address, _, port = text.rpartition(":")
    return (str(workload.address) if address in ("0.0.0.0", "") else address), int(port)  # noqa: S104
