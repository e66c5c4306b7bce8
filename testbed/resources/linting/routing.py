"""Checks of VirtualServices: destinations, matches, hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from testbed.documents import Path
from testbed.resources.linting.context import Context, full_host
from testbed.resources.linting.findings import Hit, Severity, check
from testbed.resources.resource import Resource
from testbed.resources.validation.names import host_matches, host_subset
from testbed.resources.values import Message, StringMatch, to_plain
from testbed.resources.virtual_service import HTTPMatchRequest, VirtualService


@check("unknown-host", Severity.ERROR, "requests that take this route are answered 503, with the flag NC or UH")
def unknown_host(context: Context) -> Iterator[Hit]:
    """A destination whose host is no service and no ServiceEntry."""
    for service, path, destination in context.destinations() if context.knows_hosts else ():
        host = full_host(destination.host, service.namespace)
        if not context.known(host):
            near = ", ".join(sorted(h for h in context.ports if h.partition(".")[0] == host.partition(".")[0]))
            advice = f"write {near}" if near else "write the host of a service, or add a ServiceEntry"
            yield service, (*path, "host"), f"there is no host {host!r}", advice


@check("unknown-subset", Severity.ERROR, "requests that take this route are answered 503, with the flag NC")
def unknown_subset(context: Context) -> Iterator[Hit]:
    """A destination whose subset no DestinationRule defines."""
    for service, path, destination in context.destinations():
        host = full_host(destination.host, service.namespace)
        names = {subset.name for rule in context.rules_for(host) for subset in rule.spec.subsets}
        if destination.subset and destination.subset not in names:
            have = (
                f"the subsets are {', '.join(sorted(names))}" if names else f"no DestinationRule for {host} has any"
            )
            message = f"there is no subset {destination.subset!r}: {have}"
            yield service, (*path, "subset"), message, "define it below subsets of a DestinationRule"


@check("unknown-port", Severity.ERROR, "requests that take this route are answered 503, with the flag NC")
def unknown_port(context: Context) -> Iterator[Hit]:
    """A destination with a port that the service does not have, or without one where it has several."""
    for service, path, destination in context.destinations():
        ports = context.ports.get(full_host(destination.host, service.namespace))
        if not ports:
            continue
        listed = ", ".join(map(str, sorted(ports)))
        if destination.port is not None and destination.port.number not in ports:
            message = f"{destination.host} has no port {destination.port.number}"
            yield service, (*path, "port", "number"), message, f"write one of {listed}"
        elif destination.port is None and len(ports) > 1 and not any(service.spec.gateways):
            continue  # inside the mesh, the port that was called is kept
        elif destination.port is None and len(ports) > 1:
            yield service, path, f"{destination.host} has several ports ({listed})", "write port with its number"


@check("weights", Severity.WARNING, "weights are relative: each destination gets its share of their sum")
def weights(context: Context) -> Iterator[Hit]:
    """Weights of a route that don't sum to 100."""
    for service in context.resources.virtual_services:
        spec = service.spec
        routes = [("http", i, h.route) for i, h in enumerate(spec.http)]
        parts = [(name, i, [part.weight for part in route]) for name, i, route in routes]
        parts += [("tls", i, [part.weight for part in t.route]) for i, t in enumerate(spec.tls)]
        parts += [("tcp", i, [part.weight for part in t.route]) for i, t in enumerate(spec.tcp)]
        for name, i, given in parts:
            if len(given) > 1 and sum(given) not in (0, 100):
                shares = ", ".join(f"{100 * weight / sum(given):.4g}%" for weight in given)
                message = f"the weights sum to {sum(given)}, so the shares are {shares}"
                yield service, ("spec", name, i, "route"), message, "make them sum to 100"
            elif len(given) > 1 and 0 in given:
                at = ("spec", name, i, "route", given.index(0))
                yield service, at, "a destination of weight 0 gets nothing", "give it a weight, or remove it"


@check("unreachable-match", Severity.WARNING, "the first rule that matches decides; this one never does")
def unreachable_match(context: Context) -> Iterator[Hit]:
    """A rule or match that an earlier one covers."""
    for service in context.resources.virtual_services:
        spec = service.spec
        kinds: tuple[tuple[str, Sequence[Sequence[Message]]], ...] = (
            ("http", [rule.match for rule in spec.http]),
            ("tls", [rule.match for rule in spec.tls]),
            ("tcp", [rule.match for rule in spec.tcp]),
        )
        for name, matches in kinds:
            yield from _covered(service, name, matches)


def _covered(service: Resource[VirtualService], name: str, rules: Sequence[Sequence[Message]]) -> Iterator[Hit]:
    seen: dict[str, Path] = {}
    earlier: list[tuple[Path, HTTPMatchRequest]] = []
    everything = -1
    for i, matches in enumerate(rules):
        if everything >= 0:
            message = f"{name}[{everything}] has no match, so it takes everything before this rule"
            yield service, ("spec", name, i), message, "put the rule without match last"
            continue
        if not matches:
            everything = i
        for j, match in enumerate(matches):
            at: Path = ("spec", name, i, "match", j)
            plain = {k: v for k, v in to_plain(match).items() if k not in ("name", "statPrefix")}
            text = json.dumps(plain, sort_keys=True)
            if text in seen:
                where = seen[text]
                yield service, at, f"the same match stands at {name}[{where[2]}]", "remove one of them"
                continue
            seen[text] = at
            if isinstance(match, HTTPMatchRequest):
                for where, before in earlier:
                    if _takes_all(before, match):
                        message = f"{name}[{where[2]}] takes all that this match does"
                        yield service, at, message, "put the narrower match first"
                        break
                earlier.append((at, match))


def _takes_all(wide: HTTPMatchRequest, narrow: HTTPMatchRequest) -> bool:
    """Whether every request that ``narrow`` matches is matched by ``wide`` too (never a false yes)."""
    if wide.ignore_uri_case != narrow.ignore_uri_case and wide.uri is not None:
        return False
    pairs = ((wide.uri, narrow.uri), (wide.scheme, narrow.scheme), (wide.method, narrow.method))
    if not all(_string_covers(a, b) for a, b in (*pairs, (wide.authority, narrow.authority))):
        return False
    for names in ("headers", "query_params"):
        outer: Mapping[str, StringMatch] = getattr(wide, names)
        inner: Mapping[str, StringMatch] = getattr(narrow, names)
        if not all(key in inner and _string_covers(match, inner[key]) for key, match in outer.items()):
            return False
    if any(narrow.without_headers.get(key) != match for key, match in wide.without_headers.items()):
        return False
    return (
        wide.port in (0, narrow.port)
        and wide.source_namespace in ("", narrow.source_namespace)
        and wide.source_labels.items() <= narrow.source_labels.items()
        and (not wide.gateways or (set(narrow.gateways) <= set(wide.gateways) and bool(narrow.gateways)))
    )


def _string_covers(wide: StringMatch | None, narrow: StringMatch | None) -> bool:
    if wide is None or not wide.which():
        return True
    if narrow is None or not narrow.which():
        return wide.prefix in ("", "/")
    if wide.prefix is not None:
        return (narrow.prefix or narrow.exact or "").startswith(wide.prefix) and narrow.regex is None
    return wide == narrow


@check("conflicting-hosts", Severity.ERROR, "in the mesh the first by name counts, not the other; at a gateway"
       " their rules are joined, in no order to rely on")  # fmt: skip
def conflicting_hosts(context: Context) -> Iterator[Hit]:
    """Two VirtualServices for one host at the same gateway, or in the mesh."""
    owners: dict[tuple[str, str], Resource[VirtualService]] = {}
    for service in context.resources.virtual_services:
        for i, host in enumerate(service.spec.hosts):
            for gateway in service.spec.gateways or ("mesh",):
                where = gateway if gateway == "mesh" or "/" in gateway else f"{service.namespace}/{gateway}"
                key = (where, full_host(host, service.namespace))
                first = owners.setdefault(key, service)
                if first is not service:
                    message = f"{first.key} has the host {host!r} at {where} already"
                    yield service, ("spec", "hosts", i), message, "join the two"


@check("unknown-gateway", Severity.ERROR, "the routes are in force nowhere at that gateway")
def unknown_gateway(context: Context) -> Iterator[Hit]:
    """A VirtualService that names a Gateway which is not there, or whose hosts it does not serve."""
    gateways = {f"{g.namespace}/{g.name}": g for g in context.resources.gateways}
    for service in context.resources.virtual_services:
        for i, name in enumerate(service.spec.gateways):
            if name == "mesh":
                continue
            full = name if "/" in name else f"{service.namespace}/{name}"
            gateway = gateways.get(full)
            at: Path = ("spec", "gateways", i)
            if gateway is None:
                yield service, at, f"there is no Gateway {full}", "write namespace/name of a Gateway"
                continue
            served = [h.rpartition("/")[2] for server in gateway.spec.servers for h in server.hosts]
            if not any(host_matches(full_host(h, service.namespace), s) or host_matches(h, s)
                       for h in service.spec.hosts for s in served):  # fmt: skip
                message = f"Gateway {full} serves {', '.join(served)}, none of this VirtualService's hosts"
                yield service, at, message, "add the host to the Gateway's server"


@check("unknown-delegate", Severity.ERROR, "the rule is dropped: requests that match it go on to the next")
def unknown_delegate(context: Context) -> Iterator[Hit]:
    """A delegate that is not there, or has hosts of its own."""
    services = {(v.namespace, v.name): v for v in context.resources.virtual_services}
    for service in context.resources.virtual_services:
        for i, rule in enumerate(service.spec.http):
            if rule.delegate is None:
                continue
            key = (rule.delegate.namespace or service.namespace, rule.delegate.name)
            target = services.get(key)
            at: Path = ("spec", "http", i, "delegate")
            if target is None:
                yield (
                    service,
                    at,
                    f"there is no VirtualService {'/'.join(key)}",
                    "name a VirtualService without hosts",
                )
            elif target.spec.hosts:
                yield service, at, f"{target.key} has hosts, so it is no delegate", "remove its hosts"


@check("star-in-path", Severity.WARNING, "a star is an ordinary character of a path here")
def star_in_path(context: Context) -> Iterator[Hit]:
    """A uri prefix or exact match that ends in /*."""
    for service in context.resources.virtual_services:
        for i, rule in enumerate(service.spec.http):
            for j, match in enumerate(rule.match):
                for form in ("prefix", "exact"):
                    value = getattr(match.uri, form, None) or ""
                    if value.endswith("/*"):
                        at = ("spec", "http", i, "match", j, "uri", form)
                        message = f"{form} {value!r} matches paths with a star in them"
                        yield service, at, message, f"write prefix: {value[:-1]}"


@check("tries-outlast-timeout", Severity.WARNING, "timeout is for all tries together: none is left for a second")
def tries_outlast_timeout(context: Context) -> Iterator[Hit]:
    """A perTryTimeout that is not shorter than the timeout."""
    for service in context.resources.virtual_services:
        for i, rule in enumerate(service.spec.http):
            per_try = rule.retries.per_try_timeout if rule.retries else None
            if per_try is not None and rule.timeout is not None and per_try >= rule.timeout:
                message = f"perTryTimeout {per_try:g} s, timeout {rule.timeout:g} s"
                at = ("spec", "http", i, "retries", "perTryTimeout")
                yield service, at, message, "raise timeout, or lower perTryTimeout"


@check("host-not-routed", Severity.INFO, "no sidecar sends to this host, so the rules wait for somebody who does")
def host_not_routed(context: Context) -> Iterator[Hit]:
    """A VirtualService of the mesh for a host that the registry does not have."""
    for service in context.resources.virtual_services if context.knows_hosts else ():
        if service.spec.gateways and "mesh" not in service.spec.gateways:
            continue
        for i, host in enumerate(service.spec.hosts):
            full = full_host(host, service.namespace)
            if not context.known(full) and not any(host_subset(h, full) for h in context.ports):
                yield service, ("spec", "hosts", i), f"there is no host {full!r}", "write the host of a service"
