"""A scenario's traffic as the agent's plan, for the lab at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.errors import HostNotReady, LabError
from testbed.model.scenario import Traffic, Vary
from testbed.model.topology import MeshService, MeshWorkload, ProxyKind
from testbed.scenarios.lab import LabUnderTest
from testbed.traffic import Request, TrafficSpec
from testbed.traffic.sending import Streams


@dataclass(frozen=True)
class Sender:
    """Where the agent runs, how it is started there, and who the caller is (None: from outside)."""

    at: Streams
    argv: tuple[str, ...]
    caller: MeshWorkload | None


def sender(traffic: Traffic, lab: LabUnderTest) -> Sender:
    """Who sends: the host, or a workload's namespace on its node."""
    if traffic.from_ == "gateway":
        return Sender(lab.outside, lab.outside.argv, None)
    caller = lab.caller(traffic.from_)
    agent = lab.agent_argv(packages=traffic.protocol != "http1")
    argv = lab.inside(caller.name, *agent, stranger=not traffic.mesh)
    return Sender(lab.backend.connection(caller.name), argv, caller)


def traffic_spec(
    traffic: Traffic, lab: LabUnderTest, run: str, count: int, keep: tuple[str, ...] = ()
) -> TrafficSpec:
    """The plan for one run; ``count`` caps it.  Raises LabError when the lab has nobody to call."""
    address, port, authority = _target(traffic, lab, run)
    return TrafficSpec(
        run=run,
        address=address,
        port=port,
        authority=authority,
        requests=_requests(traffic),
        count=count,
        concurrency=traffic.concurrency,
        rate=traffic.rate,
        reuse=traffic.connections == "reuse",
        protocol=traffic.protocol,
        timeout=traffic.timeout,
        keep=keep,
        body_bytes=4000,
    )


def service_called(traffic: Traffic, lab: LabUnderTest) -> MeshService | None:
    """The service that ``traffic`` names, preferring the caller's namespace; None through the gateway."""
    if traffic.service is None:
        return None
    found = [s for s in lab.topology.services if s.name == traffic.service]
    if not found:
        raise LabError(traffic.service, "send traffic to it", "the lab has no such service")
    if traffic.from_ != "gateway":
        caller = lab.caller(traffic.from_)
        found.sort(key=lambda s: s.namespace != caller.namespace)
    return found[0]


def _target(traffic: Traffic, lab: LabUnderTest, run: str) -> tuple[str, int, str]:
    if traffic.from_ == "gateway":
        if lab.gateway is None:
            gateways = [w for w in lab.topology.workloads if w.kind is ProxyKind.GATEWAY]
            cause = "no port of this host leads to it" if gateways else "the lab has no gateway"
            raise HostNotReady("gateway", "send traffic through it", cause, "give the gateway a forward: port")
        host, port = lab.gateway()
        # a gateway gives requests ids of its own: its access log is searched by the authority
        return host, port, traffic.host or f"{run}.testbed.example"
    service = service_called(traffic, lab)
    if service is None:  # a host outside the mesh
        name, _, written = (traffic.host or "").partition(":")
        return name, traffic.port or int(written or 80), traffic.host or name
    ports = {p.number: p for p in service.ports}
    port = traffic.port or service.ports[0].number
    if not traffic.mesh:
        backend = lab.of_service(service.name)[0]
        target = ports[port].target if port in ports else port
        return str(lab.backend.reached_at(backend.name)), target, traffic.host or f"{service.name}:{port}"
    return str(service.address), port, traffic.host or f"{service.name}:{port}"


def _requests(traffic: Traffic) -> tuple[Request, ...]:
    plain = tuple(traffic.headers.items())
    if traffic.vary is None:
        return (Request(_method(traffic), traffic.path, plain, traffic.body),)
    return tuple(_varied(traffic, traffic.vary, value, plain) for value in varied_values(traffic.vary))


def varied_values(vary: Vary) -> list[str]:
    """The values that requests take in turn."""
    return [f"k{i}" for i in range(vary.values)] if isinstance(vary.values, int) else vary.values


def _varied(traffic: Traffic, vary: Vary, value: str, plain: tuple[tuple[str, str], ...]) -> Request:
    fields: dict[str, Any] = {"path": traffic.path.replace("{}", value), "headers": plain}
    if vary.header:
        fields["headers"] = (*plain, (vary.header, value))
    elif vary.cookie:
        fields["headers"] = (*plain, ("cookie", f"{vary.cookie}={value}"))
    return Request(_method(traffic), body=traffic.body, key=value, **fields)


def _method(traffic: Traffic) -> str:
    return "POST" if traffic.protocol == "grpc" else traffic.method
