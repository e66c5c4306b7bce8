"""Three machines in two zones, as values: for what is planned before anything is broken."""

from ipaddress import IPv4Address

from testbed.model.fault import Fault
from testbed.model.topology import Locality, MeshWorkload, Protocol, ProxyKind, ServicePort, Topology
from testbed.plan.faults import Machine

PORT = (ServicePort("http", 9080, Protocol.HTTP, 9080),)


def workload(name, number, node, service, zone, kind=ProxyKind.SIDECAR, ports=PORT):
    address = IPv4Address(f"10.78.0.{number}")
    labels = {"app": service, "version": name.split("-")[1] if "-" in name else ""}
    place = Locality("r", zone)
    return MeshWorkload(name, "default", service, labels, address, node, place, kind, ports, service)


MACHINES = {
    name: Machine(name, IPv4Address(f"10.78.0.{number}"), f"r/{zone}", 640 << 20)
    for name, number, zone in (("one", 10, "zone-a"), ("two", 11, "zone-b"), ("three", 12, "zone-a"))
}
TOPOLOGY = Topology(
    (),
    (
        workload("reviews-v1", 101, "one", "reviews", "zone-a"),
        workload("reviews-v2", 102, "two", "reviews", "zone-b"),
        workload("ratings-v1", 103, "two", "ratings", "zone-b"),
        workload("client-v1", 104, "three", "client", "zone-a", ports=()),
        workload("gateway", 105, "three", "", "zone-a", ProxyKind.GATEWAY),
    ),
)


def fault(kind, *target, **options):
    return Fault.model_validate({"kind": kind, "target": list(target), **options})
