"""ServiceEntry and WorkloadEntry: hosts and endpoints that the registry does not have by itself."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from testbed.resources.values import Labels, Message, OptionalPort, PortNumber, UInt32, WorkloadSelector


class Location(StrEnum):
    """Whether the service is part of the mesh (mutual TLS, telemetry) or outside it."""

    MESH_EXTERNAL = "MESH_EXTERNAL"
    MESH_INTERNAL = "MESH_INTERNAL"


class Resolution(StrEnum):
    """How the endpoints' addresses are found."""

    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


class ServicePort(Message):
    """A port of the service; ``target_port`` is where its endpoints listen (0: the same)."""

    number: PortNumber
    protocol: str = ""
    name: str
    target_port: OptionalPort = 0


class WorkloadEntry(Message):
    """An endpoint: an address (or a name, or ``unix://`` path) with labels and an identity."""

    address: str = ""
    ports: dict[str, PortNumber] = Field({})
    labels: Labels = Field({})
    network: str = ""
    locality: str = ""
    weight: UInt32 = 0
    service_account: str = ""


class ServiceEntry(Message):
    """A service added to the registry."""

    hosts: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    location: Location = Location.MESH_EXTERNAL
    resolution: Resolution = Resolution.NONE
    endpoints: tuple[WorkloadEntry, ...] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
