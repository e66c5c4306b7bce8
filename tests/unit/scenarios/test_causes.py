"""A fault explains a loss when it was in time, on the way, and does such a thing; each rule broken once."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from testbed.model.fault import Fault
from testbed.model.topology import Locality, MeshWorkload, Protocol, ServicePort, Topology
from testbed.report.record import FaultSpan, Mark
from testbed.resources import load
from testbed.scenarios.causes import FITS, Manner, Promises, Scene, losses, manner_of, promises_of
from testbed.scenarios.evidence import AccessLogEntry
from testbed.scenarios.processors import Processors, Stretch
from testbed.scenarios.ways import Ways
from testbed.traffic import Request, Sample, TrafficSpec

PORT = ServicePort("http", 9080, Protocol.HTTP, 9080)


def workload(name, number, node, zone="zone-a"):
    service, _, version = name.partition("-")
    labels = {"app": service, "version": version}
    address = IPv4Address(f"10.0.0.{number}")
    ports = () if service == "client" else (PORT,)
    return MeshWorkload(
        name, "default", service, labels, address, node, Locality("r", zone), ports=ports, service=service
    )


# reviews-v3 shares its machine with ratings, details lies aside
PLACES = [("client-v1", "edge"), ("reviews-v1", "one"), ("reviews-v2", "two"), ("reviews-v3", "three")]
PLACES += [("ratings-v1", "three"), ("details-v1", "four")]
TOPOLOGY = Topology((), tuple(workload(name, i, node) for i, (name, node) in enumerate(PLACES, 1)))
ADDRESS = {w.name: str(w.address) for w in TOPOLOGY.workloads}
REVIEWS = tuple(w for w in TOPOLOGY.workloads if w.service == "reviews")
RATINGS = "outbound|9080||ratings.default.svc.cluster.local"
NODES = {w.name: w.node for w in TOPOLOGY.workloads}


def span(kind, target, began=10.0, ended=14.0, well=None, **options):
    fault = Fault.model_validate({"kind": kind, "target": target, **options})
    nodes = (NODES.get(target, target),)
    return FaultSpan(fault.title, nodes, began, began + 0.1, ended, well or ended, True, "it did", fault)


def lost(sent=12.0, took=1.0, status=503, error="", body="", seq=7):
    return Sample(seq, 0, 0 if error else status, sent, took, 1, {}, error, body)


def entry(to="reviews-v2", flags="UF", seq=7, cluster="reviews", subset="", attempts="1", **fields):
    host = f"{ADDRESS[to]}:9080" if to else ""
    cluster = f"outbound|9080|{subset}|{cluster}.default.svc.cluster.local"
    plain = {"x_request_id": f"run-{seq}", "response_flags": flags, "upstream_host": host}
    return AccessLogEntry({**plain, "upstream_cluster": cluster, "request_attempt_count": attempts, **fields})


def inbound(seq=7):
    return AccessLogEntry({"x_request_id": f"run-{seq}", "upstream_cluster": "inbound|9080||"})


def cause(spans, sample=None, entries=None, calls=None, marks=(), **known):
    found = explained(spans, sample, entries, calls, marks, **known)
    return found[0].cause if len(found) == 1 else [x.cause for x in found]


def explained(spans, sample=None, entries=None, calls=None, marks=(), **known):
    spec = TrafficSpec("run", "10.0.0.9", 9080, "reviews", (Request(),), 99)
    logs = {"client-v1": [entry()]} if entries is None else entries
    ways = Ways(TOPOLOGY, TOPOLOGY.workloads[:1], REVIEWS, spec, logs, calls or {"reviews-v3": [RATINGS]})
    samples = [sample or lost()] if not isinstance(sample, list) else sample
    return losses(samples, Scene([spans] if isinstance(spans, FaultSpan) else spans, marks, ways, **known))


def to(name, **fields):
    return {"client-v1": [entry(name, **fields)]}


NOWHERE: dict[str, list[AccessLogEntry]] = {}
GAVE_UP = {"error": "no answer within 5 s", "took": 5.0}

EXPLAINED = [
    ("its machine", span("freeze", "two"), {}, to("reviews-v2")),
    ("the caller's machine", span("freeze", "edge"), {}, to("reviews-v2")),
    ("its sidecar", span("sidecar-kill", "reviews-v2"), {}, to("reviews-v2")),
    ("all of its service", span("sidecar-kill", "reviews"), {}, to("reviews-v2")),
    ("its cable", span("link-down", "two"), {}, to("reviews-v2")),
    ("the way there", span("partition", "reviews-v2", peer="client"), {}, to("reviews-v2")),
    ("the way there, one way", span("partition", "client", peer="two", oneWay=True), {}, to("reviews-v2")),
    ("its port", span("partition", "client", peer="reviews-v2", port=9080), {}, to("reviews-v2")),
    ("one that it could have gone to", span("freeze", "one"), GAVE_UP, NOWHERE),
    ("one that an earlier attempt could", span("freeze", "one"), GAVE_UP, to("reviews-v2", flags="DC", attempts="2")),
    ("what its instance may call", span("freeze", "three"), GAVE_UP, to("reviews-v3", flags="DC")),
    ("what its instance called", span("partition", "reviews-v2", peer="ratings"), GAVE_UP,
     {**to("reviews-v2", flags="DC"), "reviews-v2": [inbound(), entry("ratings-v1", cluster="ratings")]}),
    ("a request sent before", span("freeze", "two"), {"sent": 9.5}, to("reviews-v2")),
    ("what TCP repeats afterwards", span("freeze", "two"), {**GAVE_UP, "sent": 18.9}, to("reviews-v2", flags="DC")),
    ("a connection begun before", span("sidecar-kill", "reviews-v2"), {"sent": 23.9}, to("reviews-v2")),
    ("a clock and TLS", span("clock-jump", "two", by="1h"), {},
     to("reviews-v2", upstream_transport_failure_reason="TLS_error:|268435581:CERTIFICATE_VERIFY_FAILED")),
    ("a certificate that the other end refuses late", span("certificate-expired", "edge"), {},
     to("reviews-v2", flags="UC")),
    ("a sidecar that died while TLS began", span("sidecar-kill", "reviews-v2"), {},
     to("reviews-v2", upstream_transport_failure_reason="TLS_error:_Connection_reset_by_peer")),
    ("a certificate, where nothing is written down", span("certificate-foreign", "reviews-v2"),
     {"body": "... reset reason: remote connection failure"}, NOWHERE),
    ("a sidecar, where nothing is written down", span("sidecar-kill", "reviews-v2"),
     {"body": "... reset reason: remote connection failure"}, NOWHERE),
    ("a program that is dead", span("service-kill", "reviews-v2"), {},
     to("reviews-v2", flags="-", response_code_details="via_upstream")),
]  # fmt: skip
UNEXPLAINED = [
    ("another machine", span("freeze", "one"), {}, to("reviews-v2")),
    ("a machine where none runs", span("link-down", "four"), GAVE_UP, NOWHERE),
    ("another sidecar on its machine", span("sidecar-kill", "ratings-v1"), {}, to("reviews-v3")),
    ("a machine without the subset", span("freeze", "one"), {}, to("", subset="v2")),
    ("another way", span("partition", "reviews-v1", peer="client"), {}, to("reviews-v2")),
    ("another port", span("partition", "client", peer="reviews-v2", port=15021), {}, to("reviews-v2")),
    ("the port of the way back", span("partition", "reviews-v2", peer="client", port=9080), {}, to("reviews-v2")),
    ("a way inside one machine", span("slow-link", "three", delay="1s"), GAVE_UP,
     {**to("reviews-v2", flags="DC"), "reviews-v2": [inbound()], "reviews-v3": [inbound(), entry("ratings-v1")]}),
    ("what its instance did not call", span("freeze", "three"), GAVE_UP,
     {**to("reviews-v2", flags="DC"), "reviews-v2": [inbound()]}),
    ("what is beyond, of a connection that was refused", span("freeze", "three"), {}, to("reviews-v2", flags="UF")),
    ("a fault that was yet to come", span("freeze", "two"), {"sent": 8.0, "took": 1.5}, to("reviews-v2")),
    ("a fault long over", span("freeze", "two"), {**GAVE_UP, "sent": 19.1}, to("reviews-v2", flags="DC")),
    ("a fault long over, and no connection", span("sidecar-kill", "reviews-v2"), {"sent": 24.1}, to("reviews-v2")),
    ("a broken connection of a machine that stood", span("freeze", "two"), {}, to("reviews-v2", flags="UC")),
    ("a clock and no TLS", span("clock-jump", "two", by="1h"), {}, to("reviews-v2")),
    ("a certificate and no TLS", span("certificate-foreign", "reviews-v2"), {}, to("reviews-v2")),
    ("a certificate and a time without an answer", span("certificate-foreign", "reviews-v2"),
     {"body": "... reset reason: connection timeout"}, NOWHERE),
    ("a renewed certificate", span("certificate-rotated", "reviews-v2"), {},
     to("reviews-v2", upstream_transport_failure_reason="TLS_error:|268435581:CERTIFICATE_VERIFY_FAILED")),
    ("a program that hangs and TLS", span("service-hang", "reviews-v2"), {}, to("reviews-v2")),
    ("no route", span("power-off", "two"), {}, to("", flags="NR")),
    ("an injected fault", span("power-off", "two"), {}, to("reviews-v2", flags="FI")),
    ("its own proxy, of another's fault", span("sidecar-kill", "reviews-v2"), {"error": "Connection refused"}, NOWHERE),
    ("no fault at all", [], {}, to("reviews-v2")),
]  # fmt: skip


@pytest.mark.parametrize(("spans", "sample", "entries"), [c[1:] for c in EXPLAINED], ids=[c[0] for c in EXPLAINED])
def test_a_fault_explains_what_it_could_have_hurt(spans, sample, entries):
    calls = {"reviews-v2": [RATINGS], "reviews-v3": [RATINGS]}
    assert cause(spans, lost(**sample), entries, calls) == spans.title


@pytest.mark.parametrize(
    ("spans", "sample", "entries"), [c[1:] for c in UNEXPLAINED], ids=[c[0] for c in UNEXPLAINED]
)
def test_a_fault_explains_nothing_else(spans, sample, entries):
    calls = {"reviews-v2": [RATINGS], "reviews-v3": [RATINGS]}
    assert cause(spans, lost(**sample), entries, calls) == ""


def test_the_callers_own_proxy_explains_that_it_was_not_reached():
    refused = lost(error="Connection refused")
    assert cause(span("sidecar-kill", "client-v1"), refused, NOWHERE) != ""
    assert cause(span("freeze", "edge"), refused, NOWHERE) != ""


def test_several_faults_are_all_named():
    [found] = explained([span("freeze", "two"), span("link-down", "edge"), span("freeze", "one")])
    assert found.cause == "freeze two and link-down edge"
    assert found.kinds == ("freeze", "link-down")
    assert found.doubt == ""


def test_a_fault_that_did_not_prove_itself_explains_nothing_and_leaves_a_doubt():
    weak = replace(span("freeze", "two"), held=False)
    [found] = explained(weak)
    assert (found.cause, found.doubt) == ("", "freeze two (unproved)")
    [found] = explained([weak, span("link-down", "edge")])
    assert (found.cause, found.doubt) == ("link-down edge", "")
    [found] = explained(replace(span("freeze", "one"), held=False))
    assert (found.cause, found.doubt) == ("", "")


def busy(node, waited):
    return Processors(tuple(Stretch(t / 2, t / 2 + 0.5, {node: waited}) for t in range(80)))


@pytest.mark.parametrize(
    ("node", "waited", "sample", "entries", "doubt"),
    [
        ("two", 0.7, GAVE_UP, to("reviews-v2", flags="DC"), "no processor for two"),
        ("edge", 0.7, GAVE_UP, to("reviews-v2", flags="DC"), "no processor for edge"),
        ("two", 0.3, GAVE_UP, to("reviews-v2", flags="DC"), ""),
        ("one", 0.7, GAVE_UP, to("reviews-v2", flags="DC"), ""),
        ("two", 0.7, {}, to("reviews-v2", flags="UF"), ""),
        ("two", 0.7, {}, to("reviews-v2", flags="UC"), ""),
    ],
)
def test_a_machine_without_a_processor_leaves_a_doubt_of_what_hung_there(node, waited, sample, entries, doubt):
    [found] = explained([], lost(**sample), entries, processors=busy(node, waited))
    assert (found.cause, found.doubt) == ("", doubt)


OUT = Mark(11.0, "reviews-v2 ejected (consecutive 5xx)", "reviews-v2")
BACK = Mark(30.0, "reviews-v2 unejected", "reviews-v2")
NO_INSTANCE = to("", flags="UH", subset="v2")


def test_no_healthy_instance_is_explained_by_what_each_was_ejected_for():
    late = lost(sent=29.0, took=0.1)
    assert cause(span("freeze", "two"), late, NO_INSTANCE, marks=[OUT]) == "freeze two (reviews-v2 was ejected)"
    assert cause(span("freeze", "two"), late, NO_INSTANCE) == ""
    assert cause(span("freeze", "one"), late, NO_INSTANCE, marks=[OUT]) == ""
    assert cause(span("freeze", "two"), late, to("", flags="UH"), marks=[OUT]) == ""
    assert cause(span("freeze", "two"), late, NO_INSTANCE, marks=[replace(OUT, time=9.0)]) == ""
    assert cause(span("freeze", "two"), lost(sent=31.0), NO_INSTANCE, marks=[OUT, BACK]) == ""


def test_each_connection_kept_to_a_machine_that_has_forgotten_it_costs_one_request():
    late = [lost(sent=100.0 + i, took=0.1, seq=i) for i in range(3)]
    broken = {"client-v1": [entry(flags="UC", seq=i) for i in range(3)]}
    off = span("power-off", "two", well=40.0)
    kept = "power-off two (in a connection kept from before)"
    assert cause(off, late, broken, pool=2) == [kept, kept, ""]
    assert cause(off, late, broken, pool=2, promises=Promises(kept=30.0)) == ["", "", ""]
    assert cause(span("freeze", "two", well=40.0), late, broken, pool=2) == ["", "", ""]
    assert cause(span("power-off", "one", well=40.0), late, broken, pool=2) == ["", "", ""]


@pytest.mark.parametrize(
    ("sample", "entries", "manner"),
    [
        (lost(), entry(flags="UF,URX"), Manner.REFUSED),
        (lost(), entry(flags="URX", response_code_details="via_upstream"), Manner.ANSWERED),
        (lost(), entry(flags="UC"), Manner.CUT),
        (lost(), entry(upstream_transport_failure_reason="TLS_error: Connection reset by peer"), Manner.REFUSED),
        (lost(), entry(upstream_transport_failure_reason="TLS_error:|1:SSLV3_ALERT_BAD"), Manner.UNTRUSTED),
        (lost(body="... transport failure reason: TLS_error:|1:CERTIFICATE_VERIFY_FAILED"), None, Manner.UNTRUSTED),
        (lost(status=504), entry(flags="UT"), Manner.HUNG),
        (lost(), entry(flags="UO"), Manner.FULL),
        (lost(), entry(flags="NR", response_code_details="route_not_found"), Manner.OTHER),
        (lost(error="no answer within 5 s"), entry(flags="-", response_code_details="via_upstream"), Manner.HUNG),
        (lost(error="no answer within 5 s"), entry(flags="UF"), Manner.REFUSED),
        (lost(error="no answer within 5 s"), None, Manner.HUNG),
        (lost(error="Connection refused"), None, Manner.LOCAL),
        (lost(body="... retried and the latest reset reason: remote connection failure"), None, Manner.UNREACHED),
        (lost(body="... reset reason: remote connection failure"), entry(flags="UF"), Manner.REFUSED),
        (lost(body="... reset reason: connection timeout"), None, Manner.REFUSED),
        (lost(body="no healthy upstream"), None, Manner.NONE_LEFT),
        (lost(body="upstream connect error or disconnect/reset before headers. reset reason: overflow"), None, Manner.FULL),
        (lost(body="fault filter abort"), None, Manner.OTHER),
    ],
)  # fmt: skip
def test_what_became_of_a_request_is_read_from_flags_else_from_the_answer(sample, entries, manner):
    assert manner_of(sample, entries) is manner


def test_every_kind_says_what_it_does():
    assert set(FITS) == set(type(next(iter(FITS))))


def test_promises_are_the_longest_of_the_services_policies():
    text = {"tcp": {"connectTimeout": "2s"}, "http": {"idleTimeout": "30s"}}
    rule = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "reviews"},
        "spec": {
            "host": "reviews",
            "trafficPolicy": {"connectionPool": text},
            "subsets": [{"name": "v1", "trafficPolicy": {"connectionPool": {"tcp": {"connectTimeout": "3s"}}}}],
        },
    }
    import json

    from testbed.documents import parse

    found = load(parse(json.dumps(rule), "rule.yaml"))
    assert promises_of(found, "reviews") == Promises(3.0, 30.0)
    assert promises_of(found, "ratings") == Promises(10.0, 3600.0)


def test_an_hour_of_losses_among_services_that_all_call_each_other_is_gone_through():
    """Each place of a way is gone to once: all ways between so many would be more than can be walked."""
    places = [("client-v1", "edge"), *((f"s{i}-v1", f"node-{i}") for i in range(40))]
    topology = Topology((), tuple(workload(name, i % 250, node) for i, (name, node) in enumerate(places, 1)))
    everybody = [f"outbound|9080||s{i}.default.svc.cluster.local" for i in range(40)]
    spec = TrafficSpec("run", "10.0.0.9", 9080, "s0", (Request(),), 99)
    calls = {w.name: everybody for w in topology.workloads}
    ways = Ways(topology, topology.workloads[:1], topology.workloads[1:2], spec, {}, calls)
    fault = Fault.model_validate({"kind": "freeze", "target": "node-39"})
    far = FaultSpan(fault.title, ("node-39",), 10.0, 10.1, 14.0, 14.0, True, "it did", fault)
    hops = ways.of(lost())
    assert len(hops) == 1 + 40 * 39
    assert {h.depth for h in hops} == {0, 1, 2}
    hung = lost(error="no answer within 5 s", took=5.0)
    assert [x.cause for x in losses([hung], Scene([far], (), ways))] == [fault.title]
