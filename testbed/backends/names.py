"""Names of services as lines of a hosts file, as Kubernetes' DNS would resolve them."""

from __future__ import annotations

from collections.abc import Set

from testbed.model.topology import Topology


def hosts_lines(topology: Topology, namespaces: Set[str]) -> str:
    """One line a service: address, full name, ``name.namespace.svc``, ``name.namespace``, and ``name``.

    The last is for services in ``namespaces`` only: those of the workloads that read the file.  When two of
    these have a service of the same name, the first namespace in the alphabet has it.
    """
    lines, short = [], set[str]()
    for service in sorted(topology.services, key=lambda s: (s.namespace, s.name)):
        qualified = f"{service.name}.{service.namespace}"
        names = [service.host, f"{qualified}.svc", qualified]
        if service.namespace in namespaces and service.name not in short:
            short.add(service.name)
            names.append(service.name)
        lines.append(f"{service.address} {' '.join(names)}\n")
    return "".join(lines)
