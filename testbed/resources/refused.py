"""What Istio has and this mesh does not: one table, which the loader answers from and the ledger prints.

Keys of fields are ``Message.field`` in YAML's spelling; of values, ``Message.field=VALUE``.  Messages of the
Gateway API have ``k8s.`` before them (both it and Istio have a Gateway).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from testbed.resources.values import Message

REFUSED_KINDS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("networking.istio.io", "EnvoyFilter"): "patches the configuration that istiod generates; this mesh has"
        " another compiler, so a patch would hit something else or nothing",
        (
            "networking.istio.io",
            "ProxyConfig",
        ): "sets up istiod's proxies; here the lab starts them, see the inventory",
        ("networking.istio.io", "WorkloadGroup"): "describes machines that register themselves; here the inventory"
        " lists workloads, or write a WorkloadEntry",
        ("extensions.istio.io", "WasmPlugin"): "loads code into proxies; the Envoy of this mesh runs none",
        ("extensions.istio.io", "TrafficExtension"): "loads code into proxies; the Envoy of this mesh runs none",
        ("gateway.networking.k8s.io", "TCPRoute"): "not translated; write a VirtualService with tcp routes",
        ("gateway.networking.k8s.io", "TLSRoute"): "not translated; write a VirtualService with tls routes",
        ("gateway.networking.k8s.io", "UDPRoute"): "Istio has no UDP",
        ("gateway.networking.k8s.io", "BackendTLSPolicy"): "not translated; write a DestinationRule with tls",
        ("gateway.networking.k8s.io", "ListenerSet"): "not translated; write the listeners into the Gateway",
    }
)

_NO_TUNNEL = "connections tunnelled by HTTP CONNECT are not supported; remove it"
_NO_CLUSTERS = (
    "joins the networks of several clusters; a lab has one network."
    " PASSTHROUGH with a VirtualService's tls routes is the form for one"
)
_NO_TRACING = "tracing and metrics are not supported, access logging is; remove it"

REFUSED_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "TrafficPolicy.tunnel": _NO_TUNNEL,
        "TrafficPolicy.proxyProtocol": "the PROXY protocol towards destinations is not supported; remove it",
        "Telemetry.tracing": _NO_TRACING,
        "Telemetry.metrics": _NO_TRACING,
        "Delay.exponentialDelay": "Istio itself refuses it: not supported; write fixedDelay",
        "Abort.http2Error": "Istio itself refuses it: not supported; write httpStatus",
        "Port.targetPort": "Istio itself refuses it: it does nothing at a Gateway; remove it",
        "SidecarPort.targetPort": "Istio itself refuses it: it does nothing in a Sidecar; remove it",
        "PolicyTargetReference.namespace": "Istio itself refuses it: a target is in the same namespace; remove it",
        "Server.defaultEndpoint": "istiod does nothing with it at a Gateway; remove it",
        "TLSCertificate.caCertificates": "istiod does nothing with it; write the settings' own caCertificates",
        **{
            f"FileTLSSettings.{name}": "Istio itself refuses it at a sidecar: its certificates are files; remove it"
            for name in ("subjectAltNames", "httpsRedirect", "credentialName", "credentialNames", "tlsCertificates")
        },
        "FileTLSSettings.caCertCredentialName": "a sidecar's certificates are files; write caCertificates",
        "ServerTLSSettings.mode=AUTO_PASSTHROUGH": _NO_CLUSTERS,
        "FileTLSSettings.mode=AUTO_PASSTHROUGH": _NO_CLUSTERS,
        "ServiceEntry.resolution=DYNAMIC_DNS": "resolution at the time of a request is not supported;"
        " write DNS with the names as hosts, or NONE",
        "k8s.GatewayClass.parametersRef": "the lab sets up the gateways; remove it",
        "k8s.Gateway.infrastructure": "the lab sets up the gateways; remove it",
        "k8s.Gateway.allowedListeners": "ListenerSet is not supported; write the listeners into the Gateway",
        "k8s.Gateway.tls": "client certificates for a whole Gateway are not supported; write a Gateway of"
        " networking.istio.io with tls mode MUTUAL",
        "k8s.Gateway.defaultScope": "an experimental field that Istio does not act on; remove it",
        "k8s.ListenerTLSConfig.options": "options of TLS are not supported; write a Gateway of networking.istio.io",
        "k8s.HTTPRoute.useDefaultGateways": "an experimental field that Istio does not act on; name the parentRefs",
        "k8s.GRPCRoute.useDefaultGateways": "an experimental field that Istio does not act on; name the parentRefs",
        "k8s.HTTPRouteRule.sessionPersistence": "not supported; write a DestinationRule with consistentHash",
        "k8s.GRPCRouteRule.sessionPersistence": "not supported; write a DestinationRule with consistentHash",
        "k8s.HTTPRouteFilter.externalAuth": "not supported; write an AuthorizationPolicy with action CUSTOM",
        "k8s.HTTPRouteFilter.extensionRef": "filters of other controllers are not supported; remove it",
        **{
            f"k8s.BackendFilter.{name}": "Istio itself drops a rule with it: filters of a backend change headers;"
            " write it into the rule's filters"
            for name in ("requestMirror", "requestRedirect", "urlRewrite", "cors", "externalAuth", "extensionRef")
        },
        "k8s.GRPCRouteFilter.extensionRef": "filters of other controllers are not supported; remove it",
    }
)


def refusal(owner: type[Message], field: str, value: object = None) -> str:
    """Why ``field`` of ``owner`` (or that value of it) is refused; nothing when it is not."""
    prefix = "k8s." if owner.__module__.endswith(".kubernetes_gateway") else ""
    key = f"{prefix}{owner.__name__}.{field}"
    return REFUSED_FIELDS.get(f"{key}={value}" if value is not None else key, "")


def refused_values(owner: type[Message], field: str) -> dict[str, str]:
    """The values of ``field`` that are refused, each with the reason."""
    start = f"{owner.__name__}.{field}="
    return {key.removeprefix(start): why for key, why in REFUSED_FIELDS.items() if key.startswith(start)}
