"""What goes to a node and what comes back: the documents of the guest program ``testbed_xds.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from testbed.backends.contract import ProxyState
from testbed.backends.guest import Guest
from testbed.backends.names import hosts_lines
from testbed.model.proxy import XdsFile
from testbed.model.topology import MeshWorkload


@dataclass(frozen=True)
class ProxyReport:
    """What a node says of one proxy: what it was given last, and what Envoy answers."""

    revision: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Path -> version, of the files that the proxy was given and took."""
    certificates: Mapping[str, str] = field(default_factory=dict)
    """Path -> the chain in that secret, PEM.  Keys never leave the node."""
    server: str = ""
    behind: tuple[str, ...] = ()
    warming: tuple[str, ...] = ()
    draining: int = 0
    rejected: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_force(self) -> bool:
        """Whether Envoy answers with all that it was given."""
        busy = self.behind or self.warming or self.draining or self.rejected
        return bool(self.revision) and self.server == "LIVE" and not busy

    def state(self, workload: str) -> ProxyState:
        """The same, for people above."""
        return ProxyState(
            workload,
            self.revision,
            self.in_force,
            self.behind,
            self.warming,
            self.draining,
            self.rejected,
            self.server,
        )


@dataclass(frozen=True)
class Wanted:
    """What one proxy must have.  A file without content is one that the node has already."""

    revision: str
    files: Mapping[str, XdsFile]

    def differing(self, report: ProxyReport | None) -> tuple[str, ...]:
        """Paths that would be written or removed."""
        had = report.versions if report else {}
        written = [p for p, f in self.files.items() if had.get(p) != f.version]
        return tuple(sorted(written + [p for p in had if p not in self.files]))

    def differs(self, report: ProxyReport) -> bool:
        """Whether the proxy has anything to be told, or to be waited for."""
        return bool(self.differing(report)) or report.revision != self.revision or not report.in_force


def in_force(given: Wanted, certificates: Mapping[str, str]) -> ProxyReport:
    """What a node says of a proxy that has just answered with all that it was given; see :class:`ProxyReport`."""
    versions = {path: file.version for path, file in given.files.items()}
    return ProxyReport(given.revision, versions, certificates, server="LIVE")


@dataclass(frozen=True)
class NodeReport:
    """What a node has."""

    proxies: Mapping[str, ProxyReport]
    resources: str
    hosts: Mapping[str, str]
    """Hosts file -> our lines in it."""
    standing: bool = False
    """Whether a save has stopped its services and nobody has let them go on; its proxies were not asked then."""


@dataclass(frozen=True)
class ProxyOutcome:
    """What came of a push to one proxy.  Times are in seconds from the guest program's start."""

    written: tuple[str, ...] = ()
    taken: float = 0.0
    """Until Envoy answered with all of it."""
    drained: float = 0.0
    """Until its last old listener had closed its connections."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """File -> Envoy's reason."""
    late: str = ""
    back: bool = False
    """Whether it has its last good files again."""

    @property
    def verb(self) -> str:
        """What did not work."""
        return "rejected its configuration" if self.refused else "take up its configuration"

    @property
    def trouble(self) -> str:
        """Why it did not work; empty when it did."""
        return "; ".join(f"{path}: {reason}" for path, reason in self.refused.items()) or self.late

    @classmethod
    def decode(cls, data: bytes) -> dict[str, ProxyOutcome]:
        """From what ``apply`` printed, by workload."""
        said = json.loads(data)["workloads"]
        return {name: cls(**{**o, "written": tuple(o.get("written", ()))}) for name, o in said.items()}


@dataclass(frozen=True)
class NodeRequest:
    """A document for the guest program.  It may carry private keys, so it is shown nowhere."""

    proxies: Mapping[str, Mapping[str, Any]]
    hosts: Mapping[str, str]
    directory: str
    limit: float
    durable: bool = True
    document: str = field(default="", repr=False)
    files: Mapping[str, Wanted] = field(default_factory=dict, repr=False)
    had: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    set_up: str = ""
    """What the node's own tool shall take up first, with proxies that start on the files in here."""

    @classmethod
    def of(
        cls,
        guest: Guest,
        node: str,
        workloads: Sequence[MeshWorkload],
        limit: float,
        addresses: Mapping[str, str] | None = None,
    ) -> NodeRequest:
        """A request about ``workloads`` of ``node`` that carries no files; ``limit`` is in seconds.

        ``addresses``: host -> address, of every name that has to resolve there.
        """
        readers: dict[str, set[str]] = {}
        for workload in workloads:
            readers.setdefault(guest.hosts_of(workload.name), set()).add(workload.namespace)
        proxies = {
            w.name: {
                "directory": guest.layout.directory(w),
                "namespace": guest.namespace_of(w.name),
                "admin": guest.admin_port,
                "owner": guest.owner_of(w.name),
                "start": guest.command(guest.start, w.name),
                "log": guest.command(guest.log, w.name),
            }
            for w in workloads
        }
        hosts = {path: hosts_lines(addresses or {}, namespaces) for path, namespaces in sorted(readers.items())}
        return cls(proxies, hosts, guest.resources_of(node), limit, guest.durable)

    def has_hosts(self, report: NodeReport) -> bool:
        """Whether the node's names are those of the request."""
        return all(report.hosts.get(path) == lines for path, lines in self.hosts.items())

    def carrying(self, wanted: Mapping[str, Wanted], report: NodeReport, document: str) -> NodeRequest:
        """The same for the proxies in ``wanted`` only, with the files that these lack."""
        return replace(
            self,
            proxies={n: p for n, p in self.proxies.items() if n in wanted},
            files=wanted,
            had={n: report.proxies[n].versions for n in wanted},
            document=document,
        )

    def encode(self) -> bytes:
        """As the guest program reads it."""
        workloads = {
            name: {**proxy, **(_contents(self.files[name], self.had[name]) if name in self.files else {})}
            for name, proxy in self.proxies.items()
        }
        return json.dumps(
            {
                "limit": self.limit,
                "durable": self.durable,
                "hosts": self.hosts,
                "resources": {"directory": self.directory, "content": self.document},
                "workloads": workloads,
                **({"set_up": self.set_up} if self.set_up else {}),
            }
        ).encode()


def _contents(wanted: Wanted, had: Mapping[str, str]) -> dict[str, Any]:
    def entry(file: XdsFile) -> dict[str, str]:
        said = {"version": file.version, "resource": file.resources[0] if file.resources else ""}
        return said if had.get(file.path) == file.version else {**said, "content": file.content.decode()}

    return {"revision": wanted.revision, "files": {path: entry(f) for path, f in wanted.files.items()}}
