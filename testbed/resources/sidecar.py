"""Sidecar: what one proxy, a namespace's or all of them get to see, and what they listen on."""

from __future__ import annotations

from enum import StrEnum

from testbed.resources.destination_rule import ConnectionPoolSettings
from testbed.resources.gateway import FileTLSSettings
from testbed.resources.values import Destination, Message, UInt32, WorkloadSelector


class CaptureMode(StrEnum):
    """How traffic gets to a listener."""

    DEFAULT = "DEFAULT"
    IPTABLES = "IPTABLES"
    NONE = "NONE"


class SidecarPort(Message):
    """A port that a sidecar listens on."""

    number: UInt32 = 0
    protocol: str = ""
    name: str = ""


class IstioIngressListener(Message):
    """An inbound listener, and where it sends what it gets."""

    port: SidecarPort
    bind: str = ""
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    default_endpoint: str = ""
    tls: FileTLSSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None


class IstioEgressListener(Message):
    """The hosts that can be called, as ``namespace/host``; without a port, for all ports that are left."""

    port: SidecarPort | None = None
    bind: str = ""
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    hosts: tuple[str, ...]


class OutboundTrafficPolicyMode(StrEnum):
    """Whether hosts outside the registry can be reached."""

    REGISTRY_ONLY = "REGISTRY_ONLY"
    ALLOW_ANY = "ALLOW_ANY"


class OutboundTrafficPolicy(Message):
    """What happens to traffic for unknown hosts."""

    mode: OutboundTrafficPolicyMode = OutboundTrafficPolicyMode.REGISTRY_ONLY
    egress_proxy: Destination | None = None


class Sidecar(Message):
    """The configuration of the selected workloads' proxies; without a selector, of the namespace's."""

    workload_selector: WorkloadSelector | None = None
    ingress: tuple[IstioIngressListener, ...] = ()
    egress: tuple[IstioEgressListener, ...] = ()
    inbound_connection_pool: ConnectionPoolSettings | None = None
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
