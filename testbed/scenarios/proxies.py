"""Judges of what proxies say: identities, access log fields, configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from testbed.model.expectation import Config, Identity, Telemetry
from testbed.model.topology import MeshWorkload
from testbed.model.verdict import Verdict, failed, inconclusive, passed
from testbed.scenarios.evidence import AccessLogEntry, Evidence
from testbed.scenarios.judge import Afterwards, Terms


class IdentityJudge(Afterwards):
    """Both proxies logged the peer's SPIFFE id, which each took from a certificate that it verified."""

    name = "identity"

    def __init__(self, expected: Identity, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def conclude(self, evidence: Evidence) -> Verdict:
        """Every entry of both logs; a log with too few entries says nothing."""
        good, lost = self.sound()
        if lost:
            return lost
        domain = evidence.lab.topology.trust_domain
        servers = evidence.lab.of_name(self.expected.service)
        caller = evidence.caller
        if self.expected.caller:
            named = evidence.lab.of_name(self.expected.caller)
            wanted = named[0].spiffe_id(domain) if named else self.expected.caller
        elif caller is not None:
            wanted = caller.spiffe_id(domain)
        else:
            return inconclusive("traffic from outside has no identity: name the caller")
        entries = [e for w in servers for e in evidence.access_log(w) if e.inbound]
        numbers = {"requests": float(len(good)), "entries": float(len(entries))}
        if wrong := _other(entries, "downstream_peer_uri_san", {wanted}):
            return failed(f"{self.expected.service}'s proxy saw {wrong or 'no identity'}, not {wanted}", numbers)
        if caller is not None:
            ours = [e for e in evidence.access_log(caller, len(good)) if not e.inbound]
            if wrong := _other(ours, "upstream_peer_uri_san", {w.spiffe_id(domain) for w in servers}):
                return failed(f"{caller.name}'s proxy saw {wrong} as {self.expected.service}", numbers)
            entries = min(entries, ours, key=len)
        if len(entries) < len(good):
            return inconclusive(f"an access log has only {len(entries)} of {len(good)} requests", numbers)
        return passed(f"both ends verified the other in all {len(good)} requests; caller {wanted}", numbers)


class TelemetryJudge(Afterwards):
    """Fields of the access log."""

    name = "telemetry"

    def __init__(self, expected: Telemetry, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def conclude(self, evidence: Evidence) -> Verdict:
        """Every request has an entry, and each field of it matches."""
        if not self.samples:
            return inconclusive("no request was sent")
        workloads = evidence.lab.of_name(self.expected.at)
        if not workloads:
            return inconclusive(f"the lab has no {self.expected.at}")
        entries = _entries(evidence, workloads, len(self.samples))
        numbers = {"requests": float(len(self.samples)), "entries": float(len(entries))}
        for entry in entries:
            for field, pattern in self.expected.fields.items():
                if not re.search(pattern, entry[field]):
                    text = f"{self.expected.at} logged {field} {entry[field]!r}; declared: {pattern}"
                    return failed(f"{text}\nrequest id {entry['x_request_id']}", numbers)
        if not entries:
            return failed(f"{self.expected.at} logged none of {len(self.samples)} requests", numbers)
        if len(entries) < len(self.samples):
            return inconclusive(
                f"{self.expected.at} logged {len(entries)} of {len(self.samples)} requests", numbers
            )
        return passed(f"{len(entries)} entries of {self.expected.at} match", numbers)


class ConfigJudge(Afterwards):
    """Names of xDS resources in a proxy's config dump."""

    name = "config"

    def __init__(self, expected: Config, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected
        self.cap = 1

    def conclude(self, evidence: Evidence) -> Verdict:
        """Each pattern has a match in full, and none of ``absent`` has."""
        workloads = evidence.lab.of_name(self.expected.workload)
        if not workloads:
            return inconclusive(f"the lab has no {self.expected.workload}")
        for workload in workloads:
            names = _names(evidence.admin(workload.name, "/config_dump"))
            for kind in ("clusters", "listeners", "routes"):
                for pattern in getattr(self.expected, kind):
                    if not any(re.fullmatch(pattern, n) for n in names[kind]):
                        return failed(
                            f"{workload.name} has no {kind[:-1]} {pattern}", {kind: float(len(names[kind]))}
                        )
            every = [(kind, n) for kind in names for n in names[kind]]
            for pattern in self.expected.absent:
                if found := next((f"{kind[:-1]} {n}" for kind, n in every if re.fullmatch(pattern, n)), None):
                    return failed(f"{workload.name} has {found}; declared: absent")
        return passed(f"{self.expected.workload} has the configuration that was named")


def _entries(evidence: Evidence, workloads: tuple[MeshWorkload, ...], wanted: int) -> list[AccessLogEntry]:
    """Of the caller's proxy what went out, of any other what came in."""
    out = evidence.caller is not None and evidence.caller in workloads
    entries = [e for w in workloads for e in evidence.access_log(w, wanted if len(workloads) == 1 else 0)]
    return [e for e in entries if e.inbound != out]


def _other(entries: list[AccessLogEntry], field: str, wanted: set[str]) -> str:
    """The first value that is none of those wanted, "nobody" for none; empty when all are."""
    return next((e[field] or "nobody" for e in entries if e[field] not in wanted), "")


def _names(dump: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"clusters": [], "listeners": [], "routes": []}
    inner = {"cluster": "clusters", "listener": "listeners", "route_config": "routes"}
    for holder in _walk(dump.get("configs", [])):
        for key, kind in inner.items():
            value = holder.get(key)
            if isinstance(value, dict) and isinstance(value.get("name"), str):
                found[kind].append(value["name"])
    return found


def _walk(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Objects down to where the dump keeps resources; what is inside these doesn't matter."""
    if isinstance(value, dict):
        yield value
        if depth < 5:
            for inner in value.values():
                yield from _walk(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, depth)
