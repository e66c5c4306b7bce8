"""What Istio refuses in a Gateway and a Sidecar."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.documents import Path
from testbed.resources.gateway import Gateway, Server, ServerTLSMode, ServerTLSSettings
from testbed.resources.sidecar import (
    CaptureMode,
    IstioEgressListener,
    IstioIngressListener,
    OutboundTrafficPolicyMode,
    Sidecar,
)
from testbed.resources.validation.destination_rule import connection_pool_findings
from testbed.resources.validation.names import (
    HTTP_PROTOCOLS,
    PROTOCOLS,
    TLS_PROTOCOLS,
    Finding,
    domain_fault,
    is_dns_label,
    is_ip,
    partial_wildcard,
    selector_findings,
)
from testbed.resources.validation.virtual_service import destination_findings

_UNIX = "unix://"
_WRITE_PROTOCOL = "write HTTP, HTTPS, TLS, TCP, …"
_LOOPBACKS = ("", "127.0.0.1", "0.0.0.0", "::1", "::")  # noqa: S104 - names, nothing is bound
_WITH_CERTIFICATE = (ServerTLSMode.SIMPLE, ServerTLSMode.MUTUAL, ServerTLSMode.OPTIONAL_MUTUAL)


def gateway(spec: Gateway, name: str, at: Path) -> Iterator[Finding]:
    """All findings, in the order of the fields."""
    if not is_dns_label(name):
        yield ("metadata", "name"), f"a Gateway's name has no dots: {name!r}", "write letters, digits and '-'"
    if not spec.servers:
        yield (*at, "servers"), "a Gateway without servers", "write at least one"
    names: set[str] = set()
    for i, server in enumerate(spec.servers):
        here = (*at, "servers", i)
        if server.port.name in names:
            yield (*here, "port", "name"), f"the port name {server.port.name!r} is given twice", "rename one"
        names.add(server.port.name)
        yield from _server(server, here)


def _server(server: Server, at: Path) -> Iterator[Finding]:
    protocol = server.port.protocol.lower()
    unix = server.bind.startswith(_UNIX)
    if protocol not in PROTOCOLS:
        yield (
            (*at, "port", "protocol"),
            f"unknown protocol {server.port.protocol!r}",
            _WRITE_PROTOCOL,
        )
    if not server.port.name:
        yield (*at, "port", "name"), "a port without a name", "name it http-web, say"
    if unix == bool(server.port.number) or server.port.number > 65535:
        yield (*at, "port", "number"), "no port number from 1 to 65535", "write one (0 for a unix:// bind only)"
    if server.bind and not unix and not is_ip(server.bind):
        yield (*at, "bind"), f"{server.bind!r} is no address", "write an IP address or unix://path"
    if not server.hosts:
        yield (*at, "hosts"), "a server without hosts", "write hosts, '*' for any"
    for i, host in enumerate(server.hosts):
        yield from _host(host, (*at, "hosts", i), gateway=True)
    yield from _tls(server.tls, (*at, "tls"))
    if protocol in TLS_PROTOCOLS and server.tls is None:
        yield at, f"{server.port.protocol} without tls", "write tls with a mode"
    elif protocol not in TLS_PROTOCOLS and (tls := server.tls) is not None:
        certificates = tls.ca_certificates or tls.private_key or tls.server_certificate
        if protocol not in HTTP_PROTOCOLS or tls.mode is not ServerTLSMode.PASSTHROUGH or certificates:
            message = f"tls settings for a port of protocol {server.port.protocol}"
            yield (*at, "tls"), message, "write protocol HTTPS or TLS, or keep httpsRedirect alone"


def _host(text: str, at: Path, gateway: bool) -> Iterator[Finding]:
    namespace, slash, host = text.rpartition("/")
    if not slash and not gateway:
        yield at, f"{text!r} has no namespace", f"write */{text} or ./{text}"
        return
    if slash and namespace not in ("*", ".", *(() if gateway else ("~",))) and not is_dns_label(namespace):
        yield at, f"{namespace!r} is no namespace", "write a namespace, '.' or '*'"
    if host != "*" and "." not in host:
        yield (
            at,
            f"the short name {host!r} is not allowed here",
            "write name.namespace.svc.cluster.local",
        )
    elif partial_wildcard(host):
        yield at, f"{host!r}: a wildcard stands for whole labels", "write '*.' and a host"
    elif (fault := domain_fault(host)) and not (gateway and is_ip(host)):
        yield at, fault, "write a host name"


def _tls(tls: ServerTLSSettings | None, at: Path) -> Iterator[Finding]:
    if tls is None:
        return
    ways = {
        "serverCertificate": bool(tls.server_certificate and tls.private_key),
        "credentialName": bool(tls.credential_name),
        "credentialNames": bool(tls.credential_names),
        "tlsCertificates": bool(tls.tls_certificates),
    }
    given = [name for name, is_given in ways.items() if is_given]
    if tls.mode is ServerTLSMode.ISTIO_MUTUAL:
        for name in (*given, *(["caCertificates"] if tls.ca_certificates else [])):
            yield (*at, name), f"ISTIO_MUTUAL takes the workload's own certificate, no {name}", "remove it"
        return
    if len(given) > 1:
        yield (*at, given[1]), f"{' and '.join(given)} exclude each other", "keep one of them"
    if tls.ca_crl and (tls.credential_name or tls.mode is ServerTLSMode.SIMPLE):
        yield (*at, "caCrl"), "caCrl goes with MUTUAL and files only", "remove it, or put it into the credential"
    if tls.mode not in _WITH_CERTIFICATE or tls.credential_name or tls.credential_names:
        return
    if tls.mode is not ServerTLSMode.SIMPLE and not tls.ca_certificates:
        yield at, f"{tls.mode} needs the clients' CA", "write caCertificates, or credentialName"
    pairs = tls.tls_certificates or (tls,)
    if not all(pair.server_certificate and pair.private_key for pair in pairs):
        yield (
            at,
            f"{tls.mode} needs a certificate and its key",
            "write credentialName, or serverCertificate and privateKey",
        )


def sidecar(spec: Sidecar, at: Path) -> Iterator[Finding]:
    """All findings, in the order of the fields."""
    if spec.workload_selector is not None:
        yield from selector_findings(spec.workload_selector.labels, (*at, "workloadSelector", "labels"))
    if not (spec.ingress or spec.egress or spec.outbound_traffic_policy or spec.inbound_connection_pool):
        yield at, "an empty Sidecar", "write egress, ingress or outboundTrafficPolicy"
    numbers: set[int] = set()
    for i, ingress in enumerate(spec.ingress):
        here = (*at, "ingress", i)
        if ingress.port.number in numbers:
            yield (*here, "port", "number"), f"the port {ingress.port.number} is given twice", "keep one of them"
        numbers.add(ingress.port.number)
        yield from _ingress(ingress, here)
    yield from connection_pool_findings(spec.inbound_connection_pool, (*at, "inboundConnectionPool"))
    numbers = set()
    for i, egress in enumerate(spec.egress):
        here = (*at, "egress", i)
        if egress.port is None:
            if i != len(spec.egress) - 1:
                message = "only the last egress listener may leave out its port"
                yield here, message, "write a port, or put it last"
        elif egress.port.number in numbers - {0}:
            yield (*here, "port", "number"), f"the port {egress.port.number} is given twice", "keep one of them"
        else:
            numbers.add(egress.port.number)
        yield from _egress(egress, here)
    policy = spec.outbound_traffic_policy
    if policy is not None and policy.egress_proxy is not None:
        here = (*at, "outboundTrafficPolicy", "egressProxy")
        if policy.mode is not OutboundTrafficPolicyMode.ALLOW_ANY:
            yield here, "egressProxy goes with mode ALLOW_ANY only", "write mode: ALLOW_ANY"
        elif policy.egress_proxy.port is None:
            yield here, "egressProxy needs a port", "write port with its number"
        yield from destination_findings(policy.egress_proxy, here)


def _port(listener: IstioIngressListener | IstioEgressListener, at: Path, unix: bool) -> Iterator[Finding]:
    port = listener.port
    if port is None:
        return
    if port.name and not is_dns_label(port.name):
        yield (*at, "port", "name"), f"{port.name!r} is no port name", "write letters, digits and '-'"
    if port.protocol and port.protocol.lower() not in PROTOCOLS:
        yield (*at, "port", "protocol"), f"unknown protocol {port.protocol!r}", _WRITE_PROTOCOL
    if not 1 <= port.number <= 65535 and not unix:
        yield (*at, "port", "number"), "no port number from 1 to 65535", "write one"
    if listener.bind and not unix and not is_ip(listener.bind):
        yield (*at, "bind"), f"{listener.bind!r} is no address", "write an IP address"


def _ingress(listener: IstioIngressListener, at: Path) -> Iterator[Finding]:
    yield from _port(listener, at, unix=False)
    yield from connection_pool_findings(listener.connection_pool, (*at, "connectionPool"))
    if listener.default_endpoint and not listener.default_endpoint.startswith(_UNIX):
        host, _, port = listener.default_endpoint.rpartition(":")
        if host.strip("[]") not in _LOOPBACKS or not (port.isdecimal() and 1 <= int(port) <= 65535):
            message = f"{listener.default_endpoint!r} is no endpoint of the workload itself"
            yield (*at, "defaultEndpoint"), message, "write 127.0.0.1:PORT, 0.0.0.0:PORT or unix://path"
    if (tls := listener.tls) is not None:
        if tls.mode is ServerTLSMode.ISTIO_MUTUAL:
            yield (*at, "tls", "mode"), "Istio refuses ISTIO_MUTUAL here", "write a PeerAuthentication"
        if listener.port.protocol.lower() not in TLS_PROTOCOLS:
            yield (*at, "tls"), "tls settings for a port that is not TLS", "write protocol HTTPS or TLS"
        yield from _tls(tls.as_server(), (*at, "tls"))


def _egress(listener: IstioEgressListener, at: Path) -> Iterator[Finding]:
    unix = listener.port is not None and listener.port.number == 0
    yield from _port(listener, at, unix)
    if unix and not listener.bind.startswith(_UNIX):
        yield (*at, "bind"), "port 0 without a unix:// bind", "write a port number"
    if unix and listener.capture_mode is CaptureMode.IPTABLES:
        yield (*at, "captureMode"), "a unix socket is not captured by IPTABLES", "write captureMode: NONE"
    if not listener.hosts:
        yield (*at, "hosts"), "an egress listener without hosts", 'write hosts, "*/*" for all'
    for i, host in enumerate(listener.hosts):
        yield from _host(host, (*at, "hosts", i), gateway=False)
