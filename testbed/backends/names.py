"""Names of services as lines of a hosts file, as Kubernetes' DNS would resolve them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

_SERVICE = re.compile(r"([^.]+)\.([^.]+)\.svc\.cluster\.local")


def hosts_lines(addresses: Mapping[str, str], namespaces: Set[str]) -> str:
    """One line a host: its address and its name; of a service also its shorter names.

    ``name`` alone is for services in ``namespaces`` only: those of the workloads that read the file.  When two of
    these have a service of the same name, the first namespace in the alphabet has it.
    """
    lines, short = [], set[str]()
    for host, service in sorted(((h, _SERVICE.fullmatch(h)) for h in addresses), key=_place):
        names = [host]
        if service:
            name, namespace = service.groups()
            names += [f"{name}.{namespace}.svc", f"{name}.{namespace}"]
            if namespace in namespaces and name not in short:
                short.add(name)
                names.append(name)
        lines.append(f"{addresses[host]} {' '.join(names)}\n")
    return "".join(lines)


def _place(item: tuple[str, re.Match[str] | None]) -> tuple[str, str]:
    host, service = item
    return (service[2], service[1]) if service else ("~", host)
