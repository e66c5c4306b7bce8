"""What Istio has and this mesh does not: one table, which the loader answers from and the ledger prints.

Keys of fields are ``Message.field`` in YAML's spelling; of values, ``Message.field=VALUE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

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
_NO_TRACING = "tracing and metrics are not supported, access logging is; remove it"

REFUSED_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "TrafficPolicy.tunnel": _NO_TUNNEL,
        "TrafficPolicy.proxyProtocol": "the PROXY protocol towards destinations is not supported; remove it",
        "Telemetry.tracing": _NO_TRACING,
        "Telemetry.metrics": _NO_TRACING,
        "ServerTLSSettings.mode=AUTO_PASSTHROUGH": "joins the networks of several clusters; a lab has one network."
        " PASSTHROUGH with a VirtualService's tls routes is the form for one",
        "ServiceEntry.resolution=DYNAMIC_DNS": "resolution at the time of a request is not supported;"
        " write DNS with the names as hosts, or NONE",
        "GatewayClass.parametersRef": "the lab sets up the gateways; remove it",
        "Gateway.infrastructure": "the lab sets up the gateways; remove it",
        "Gateway.allowedListeners": "ListenerSet is not supported; write the listeners into the Gateway",
        "Gateway.tls": "client certificates for a whole Gateway are not supported; write a Gateway of"
        " networking.istio.io with tls mode MUTUAL",
        "Gateway.defaultScope": "an experimental field that Istio does not act on; remove it",
        "ListenerTLSConfig.options": "options of TLS are not supported; write a Gateway of networking.istio.io",
        "HTTPRoute.useDefaultGateways": "an experimental field that Istio does not act on; name the parentRefs",
        "GRPCRoute.useDefaultGateways": "an experimental field that Istio does not act on; name the parentRefs",
        "HTTPRouteRule.sessionPersistence": "not supported; write a DestinationRule with consistentHash",
        "GRPCRouteRule.sessionPersistence": "not supported; write a DestinationRule with consistentHash",
        "HTTPRouteFilter.externalAuth": "not supported; write an AuthorizationPolicy with action CUSTOM",
        "HTTPRouteFilter.extensionRef": "filters of other controllers are not supported; remove it",
        "GRPCRouteFilter.extensionRef": "filters of other controllers are not supported; remove it",
    }
)
