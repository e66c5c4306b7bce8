"""Checks of Gateways, and of names of ports."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.model.topology import ProxyKind
from testbed.resources.linting.context import Context
from testbed.resources.linting.findings import Hit, Severity, check
from testbed.resources.resource import Resource
from testbed.resources.validation.names import HTTP_PROTOCOLS, PROTOCOLS
from testbed.resources.values import Message, selects


@check("gateway-without-listener", Severity.ERROR, "nobody listens: connections to the port are refused")
def gateway_without_listener(context: Context) -> Iterator[Hit]:
    """A Gateway whose selector picks no gateway of the lab."""
    for gateway in context.resources.gateways if context.topology else ():
        if not any(
            w.kind is ProxyKind.GATEWAY and selects(gateway.spec.selector, w.labels) for w in context.workloads
        ):
            labels = ", ".join(f"{k}={v}" for k, v in gateway.spec.selector.items())
            yield (
                gateway,
                ("spec", "selector"),
                f"no gateway has {labels or 'no labels'}",
                "write istio: ingressgateway",
            )


@check("gateway-port-conflict", Severity.ERROR, "the first by name gets the port, the other is left out")
def gateway_port_conflict(context: Context) -> Iterator[Hit]:
    """Two Gateways on the same proxies that want one port for different protocols, or the same host."""
    taken: dict[tuple[tuple[tuple[str, str], ...], int], tuple[str, str]] = {}
    served: dict[tuple[tuple[tuple[str, str], ...], int, str], str] = {}
    for gateway in context.resources.gateways:
        selector = tuple(sorted(gateway.spec.selector.items()))
        for i, server in enumerate(gateway.spec.servers):
            protocol, number = server.port.protocol.lower(), server.port.number
            kind = "plain HTTP" if protocol in HTTP_PROTOCOLS else protocol.upper()
            name, first = taken.setdefault((selector, number), (gateway.name, kind))
            if first != kind and {first, kind} != {"HTTPS", "TLS"}:
                message = f"port {number} is {first} in Gateway {name} and {kind} here"
                yield gateway, ("spec", "servers", i, "port"), message, "use another port, or the same protocol"
                continue
            for j, text in enumerate(server.hosts if kind != "plain HTTP" else ()):
                owner = served.setdefault((selector, number, text.rpartition("/")[2]), gateway.name)
                if owner != gateway.name:
                    message = f"Gateway {owner} serves {text!r} on port {number} too"
                    yield gateway, ("spec", "servers", i, "hosts", j), message, "keep one of them"


@check("gateway-not-used", Severity.INFO, "requests for its hosts are answered 404")
def gateway_not_used(context: Context) -> Iterator[Hit]:
    """A Gateway that no VirtualService names."""
    used = {
        name if "/" in name else f"{service.namespace}/{name}"
        for service in context.resources.virtual_services
        for name in service.spec.gateways
    }
    for gateway in context.resources.gateways:
        if f"{gateway.namespace}/{gateway.name}" not in used:
            yield gateway, ("metadata", "name"), "no VirtualService names this Gateway", "write it below gateways"


@check(
    "port-without-protocol", Severity.WARNING, "Istio guesses the protocol from the first bytes, or takes it as TCP"
)
def port_without_protocol(context: Context) -> Iterator[Hit]:
    """A Service's port whose name does not begin with a protocol, and that has no appProtocol."""
    for document in context.services:
        value = document.value
        service: Resource[Message] = Resource(
            "Service", "v1", str((value.get("metadata") or {}).get("name")), "", Message(), document=document
        )
        for i, port in enumerate((value.get("spec") or {}).get("ports") or ()):
            if not isinstance(port, dict) or port.get("appProtocol"):
                continue
            name = str(port.get("name") or "")
            if name.split("-", maxsplit=1)[0].lower() not in PROTOCOLS and not name.startswith("grpc-web"):
                shown = f"the port name {name!r} says no protocol" if name else "a port without a name"
                at = ("spec", "ports", i, *(("name",) if name else ()))
                yield service, at, shown, "name it http-…, grpc-…, tcp-…, or write appProtocol"
