"""The ledger: every field of Istio's published API, what this mesh does with it, and the test that proves it.

``api_fields.json`` holds the names as published (Istio 1.30, Gateway API 1.5); the caller reads it.
A path is written ``spec.http[].match[].headers{}.exact``: ``[]`` is any element of a list, ``{}`` any
value of a mapping.  Only fields that hold a value are listed, not the messages around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.documents import Path
from testbed.resources.kinds import BY_NAME, GATEWAY_API
from testbed.resources.loading import owner_of
from testbed.resources.refused import REFUSED_KINDS, refusal, refused_values

_STEP = re.compile(r"([^.\[\]{}]+)((?:\[\]|\{\})*)")


DEPARTURES = (
    (
        "`Sidecar.spec.ingress[].tls`",
        "passes it over unless its experimental ENABLE_TLS_ON_SIDECAR_INGRESS is on",
        "does what istiod does with that switch on: a field that somebody wrote has an effect",
    ),
    (
        "an unknown Host header at a service's address",
        "passes it on to that address, which kube-proxy leads to a pod",
        "passes it on as well, but nothing in a lab answers at a service's address: 503",
    ),
    (
        "`RequestAuthentication.spec.jwtRules[].jwksUri`",
        "fetches keys itself, and writes them into the proxies",
        "has proxies fetch them from a service in the mesh; keys of a host outside are given inline (`jwks`)",
    ),
    (
        "files that TLS settings name",
        "waits with the one destination or server that needs them",
        "refuses the resources, with their place, while a node that needs a file lacks it",
    ),
    (
        "bytes that are no HTTP, at a port of protocol HTTP_PROXY, or at an address that a Sidecar binds",
        "answers 400, or closes",
        "passes them on, as at every port of HTTP",
    ),
    (
        "a ServiceEntry with addresses or other ports for the host of a service of the lab",
        "gives the service those addresses, and listens at those ports",
        "adds the entry's endpoints, and leaves the service its address and ports",
    ),
    (
        "an endpoint that an entry names for several addresses, or a service and an entry both have",
        "lists it for each, and so sends it a greater share",
        "lists it once",
    ),
    (
        "an address as Host, at a ServiceEntry with `resolution: NONE` and several addresses",
        "knows the first",
        "knows each",
    ),
    (
        "a ServiceEntry's port of protocol UDP, at a workload that it selects",
        "takes TCP connections there",
        "has nothing for that port: what comes is passed on as at a port of no service",
    ),
    (
        "two HTTPRoutes at one listener, one with the listener's hostname and one without any",
        "has the rules of the one without hostnames come first",
        "orders the rules of both by what they match, as the Gateway API says",
    ),
    (
        "a listener of the Gateway API on a port that the gateway's Service lacks",
        "leaves it out",
        "listens: a lab's gateway is a machine's address, not a Service",
    ),
    (
        "a listener of the Gateway API whose `certificateRefs` name no Secret",
        "leaves it out",
        "listens: a lab has no Secrets, each name stands for a certificate of its CA",
    ),
    (
        "a Sidecar's ingress that binds 0.0.0.0 at a port that the sidecar listens at for callers, too",
        "makes two listeners of one name",
        "gives the port to the ingress",
    ),
)
"""What was seen to differ in effect when configurations were laid side by side: where, istiod, this mesh."""


@dataclass(frozen=True)
class Entry:
    """A field and its state.  ``refused``: why, or empty.  ``gap``: neither supported nor refused."""

    kind: str
    field: str
    refused: str = ""
    refused_values: tuple[tuple[str, str], ...] = ()
    gap: bool = False

    @property
    def name(self) -> str:
        """What a test says it proves: ``VirtualService.spec.http[].timeout``."""
        return f"{self.kind}.{self.field}"


def shown_kind(group: str, kind: str) -> str:
    """The kind's name in the ledger: both groups have a Gateway, so that of the Gateway API shows its group."""
    return f"{GATEWAY_API}/{kind}" if (group, kind) == (GATEWAY_API, "Gateway") else kind


def entries(api: Mapping[str, Any]) -> tuple[Entry, ...]:
    """All fields of ``api_fields.json`` (as parsed), in its order, each with its state."""
    return tuple(
        _entry(group, kind, field)
        for key, fields in api["fields"].items()
        for group, _, kind in (key.rpartition("/"),)
        for field in fields
    )


def page(api: Mapping[str, Any], proofs: Mapping[str, Iterable[str]]) -> str:
    """``docs/reference/coverage.md``.  ``proofs``: names of entries, each with the tests that prove it."""
    all_entries = entries(api)
    supported = [e for e in all_entries if not e.refused and not e.gap]
    proved = sum(1 for e in supported if proofs.get(e.name))
    out = [
        "# Coverage of Istio's API",
        "",
        "<!-- Written by tests/unit/test_resources_ledger.py; run it with TESTBED_WRITE=1 to renew this page. -->",
        "",
        f"Every field of the API as Istio {api['istio']} and the Gateway API {api['gatewayApi']} publish it."
        " A refused field is a located error with the message shown; no field is passed over in silence."
        " `[]` stands for each element of a list, `{}` for each value of a mapping.",
        "",
        f"{len(all_entries)} fields: {len(supported)} supported, of which {proved} name a test that proves them;"
        f" {len(all_entries) - len(supported)} refused. A supported field without a test is read and checked;"
        " what it does is then nobody's promise yet.",
    ]
    kind = ""
    for entry in all_entries:
        if entry.kind != kind:
            kind = entry.kind
            out += ["", f"## {kind}", "", "| field | | proved by |", "| --- | --- | --- |"]
        tests = ", ".join(f"`{t}`" for t in sorted(set(proofs.get(entry.name, ()))))
        out.append(f"| `{entry.field}` | {_state(entry)} | {tests} |")
    out += ["", f"## Where the mesh does other than istiod {api['istio']}", ""]
    out += ["| where | istiod | this mesh |", "| --- | --- | --- |"]
    out += [f"| {where} | {istiod} | {here} |" for where, istiod, here in DEPARTURES]
    out += ["", "## Kinds that are refused", "", "| kind | message |", "| --- | --- |"]
    out += [f"| {group}/{name} | {why} |" for (group, name), why in REFUSED_KINDS.items()]
    return "\n".join(out) + "\n"


def _state(entry: Entry) -> str:
    if entry.gap:
        return "**missing**"
    if entry.refused:
        return f"refused: {entry.refused}"
    return "; ".join(["supported", *(f"`{value}` refused: {why}" for value, why in entry.refused_values)])


def _entry(group: str, kind: str, field: str) -> Entry:
    spec, shown = BY_NAME[group, kind].spec, shown_kind(group, kind)
    path: Path = ()
    for name, suffix in _STEP.findall(field.removeprefix("spec.")):
        owner = owner_of(spec, path)
        if owner is None:
            return Entry(shown, field, gap=True)
        if why := refusal(owner, name):
            return Entry(shown, field, refused=why)
        if name not in {f.alias or n for n, f in owner.model_fields.items()}:
            return Entry(shown, field, gap=True)
        values = refused_values(owner, name)
        path = (*path, name, *("*" for _ in range(len(suffix) // 2)))
    return Entry(shown, field, refused_values=tuple(values.items()))
