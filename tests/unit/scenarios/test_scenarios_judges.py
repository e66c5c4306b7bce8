"""Every expectation holds on a mesh that keeps it and fails on one that does not."""

import dataclasses
from ipaddress import IPv4Address
from types import SimpleNamespace

import pytest
from fake_capture import client_hello, pcap, segment
from hpack import Encoder
from played import TOPOLOGY, arrivals, inbound, judged, log, many, sample, turns

from testbed.model.expectation import Expectation
from testbed.model.fault import Fault
from testbed.model.scenario import Traffic
from testbed.model.verdict import Outcome
from testbed.report.record import FaultSpan, Mark
from testbed.resources import ResourceSet
from testbed.scenarios.building import BUILDERS, build
from testbed.scenarios.evidence import PastTraffic
from testbed.scenarios.judge import Terms
from testbed.scenarios.processors import Processors, Stretch
from testbed.scenarios.wire import markers

BEFORE_HEADERS = "upstream connect error or disconnect/reset before headers. reset reason:"
REFUSED = f"{BEFORE_HEADERS} connection failure"
TIMED_OUT = f"{BEFORE_HEADERS} connection timeout"
NO_ROUTE = (
    f"{BEFORE_HEADERS} remote connection failure, transport failure reason: delayed connect error: No route to host"
)
DENIED = {"version": "", "status": 403, "body": "RBAC: access denied"}
NONE_MATCHED = {"response_code_details": "rbac_access_denied_matched_policy[none]"}
BY_POLICY = {"response_code_details": "rbac_access_denied_matched_policy[ns[default]-policy[p]-rule[0]]"}
NO_CHAIN = [{"response_flags": "NR", "response_code_details": "filter_chain_not_found"}] * 60
BLACKHOLE = [{"response_flags": "UH", "upstream_cluster": "BlackHoleCluster"}] * 60
CUT = {"version": "", "error": "Connection reset by peer"}
SAN = "spiffe://cluster.local/ns/default/sa/"
BOTH_ENDS = {
    "client-v1": log(upstream_peer_uri_san=f"{SAN}reviews"),
    "reviews-v1": inbound(downstream_peer_uri_san=f"{SAN}client"),
}
WRONG_CALLER = {**BOTH_ENDS, "reviews-v1": inbound(downstream_peer_uri_san=f"{SAN}ratings")}
TLS = pcap(segment("10.0.0.1", "10.0.0.3", client_hello("outbound_.80_._.reviews.default.svc.cluster.local")))
CONTROL = {"controls": {("client-v1", "reviews", "http1")}}


def tls_and(payload, *, syn=False):
    """A handshake on one connection, and ``payload`` on another, of which the beginning may have been seen."""
    hello = client_hello("outbound_.80_._.reviews.default.svc.cluster.local")
    other = segment("10.0.0.1", "10.0.0.3", payload, port=40001)
    first = [segment("10.0.0.1", "10.0.0.3", b"", port=40001, syn=True)] if syn else []
    return pcap(segment("10.0.0.1", "10.0.0.3", hello), *first, other)


def hbone(payload=b"", to=15008):
    """A tunnel to a pod in ambient mode begins, or begins with ``payload``."""
    return pcap(segment("10.0.0.1", "10.0.0.3", payload or client_hello(""), to=to))


WRONG_SNI = pcap(segment("10.0.0.1", "10.0.0.3", client_hello("outbound_.80_._.ratings.default.svc.cluster.local")))
PLAIN = pcap(segment("10.0.0.1", "10.0.0.3", b"GET / HTTP/1.1\r\nx-testbed-request: run7-0\r\n\r\n"))
SILENT = pcap(segment("10.0.0.1", "10.0.0.7", b"x-testbed-request: run7-0"))
DUMP = {"configs": [{"dynamic_active_clusters": [{"cluster": {"name": "outbound|80||reviews"}}]}]}
UO = {"version": "", "status": 503, "x_envoy_overloaded": "true"}
GAVE_UP = {"version": "", "status": 504}
EJECTING = [sample(i, "v1" if i in (0, 3, 6) else "v2", 503 if i in (0, 3, 6) else 200) for i in range(100)]
NEVER_EJECTED = [sample(i, "v1" if i % 3 == 0 else "v2", 503 if i % 3 == 0 else 200) for i in range(100)]
HAD_V3 = {"k0": "reviews-v1", "k1": "reviews-v3"}

# an instance fails two seconds after the start of a step, then three seconds go by without it, and two between steps
BEFORE = (*many(20, version="v2"), sample(20, "v1", 503), *(sample(i, "v2") for i in range(21, 51)))
FAILED_BEFORE = {"began": 107.0, "earlier": [PastTraffic("client-v1", 100.0, BEFORE)]}
# it is asked again in the same step, and fails again
BACK_TO_FAIL = (*BEFORE, sample(51, "v1", 503))
FAILED_AGAIN = {"began": 107.0, "earlier": [PastTraffic("client-v1", 100.0, BACK_TO_FAIL)]}
OTHERS_CLOCK = {"began": 107.0, "earlier": [PastTraffic("ratings-v1", 100.0, BEFORE)]}
BACK_AT_3 = [*many(30, version="v2"), sample(30, sent=3.0)]

P, F, U, N = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.NOT_APPLICABLE


def span(began=2.0, ended=4.0, **changed):
    fields = {"title": "freeze n", "nodes": ("n",), "well": ended, "held": True, "proof": "it did", **changed}
    return FaultSpan(began=began, bit=began + 0.1, ended=ended, **fields)


def hurt(first, last, n=120, **fields):
    """One request each tenth of a second; those sent from ``first`` to ``last`` (seconds) fail."""
    return [sample(i, **({"status": 503, "version": ""} if first <= i / 10 < last else fields)) for i in range(n)]


def moved(at, node="node-v1"):
    """A request each tenth of a second; reviews-v2 answers from its own node until 2 s, and from ``node`` since
    ``at``."""
    away = [sample(i, "v2", x_node=node if i / 10 >= at else "node-v2") for i in range(120)]
    return [s if s.sent < 2 or s.sent >= at else sample(s.seq, x_node="node-v1") for s in away]


def freeze(target):
    return Fault.model_validate({"kind": "freeze", "target": target})


BROKEN = {"faults": [span()]}
HANGING = log(response_flags="UT", upstream_host="10.0.0.3:80", upstream_cluster="outbound|80|v2|reviews.default.x")
FROZEN = {
    "faults": [span(fault=freeze("reviews-v2"), nodes=("node-v2",))],
    "logs": {"client-v1": [{**e, "x_request_id": f"run7-{i}"} for i in range(300) for e in HANGING[:1]]},
}
RESET = "Connection reset by peer"
AWAY = {"strangers": {"reviews-v1": many(9, error=RESET), "reviews-v2": many(9, version="", status=403)}}
GUARDED, FROZEN_GUARDED = {**BROKEN, **AWAY}, {**FROZEN, **AWAY}
UNPROVED_GUARDED = {**FROZEN_GUARDED, "faults": [*(span() for _ in range(9)), span(held=False)]}
WEAK = {**FROZEN_GUARDED, "faults": [*(span() for _ in range(9)), *FROZEN["faults"]]}
WEAK["faults"][-1] = dataclasses.replace(WEAK["faults"][-1], held=False)
HUNG = {"error": "no answer within 5 s", "took": 5.0, "version": ""}


def hungry(node, share, longest=1.0):
    """The node waited for a processor for that share of each half second, in the first ``longest`` of ten minutes."""
    stretches = (Stretch(i / 2, i / 2 + 0.5, {node: share if i / 2 < 600 * longest else 0.0}) for i in range(1200))
    return {**GUARDED, "processors": Processors(tuple(stretches))}


def one_hung(n=2000, **fields):
    return [sample(i, **(HUNG if i == 100 else fields)) for i in range(n)]


EJECTED = {**BROKEN, "marks": [Mark(2.6, "reviews-v2 ejected (consecutive 5xx)", "reviews-v2")]}
OTHER_BEFORE = {**EJECTED, "marks": [Mark(1.0, "reviews-v1 ejected (consecutive 5xx)", "reviews-v1")]}
READMITTED_ONLY = {**BROKEN, "marks": [Mark(2.6, "reviews-v2 unejected", "reviews-v2")]}
CALM, SLOWER = many(200, took=0.01), [sample(i, took=0.01 if i < 20 else 0.05) for i in range(60)]
CASES = [
    ("split", {"weights": {"v1": 50, "v2": 50}, "tolerance": 20}, turns("v1", "v2", n=400), P, {}),
    ("split", {"weights": {"v1": 50, "v2": 50}, "tolerance": 20}, turns("v1", "v1", "v1", "v2", n=400), F, {}),
    ("split", {"weights": {"v1": 50, "v2": 50}, "tolerance": 20}, turns("v1", "v2", n=20), U, {}),
    ("split", {"weights": {"zone-a": 2, "zone-b": 1}, "by": "zone", "tolerance": 20}, turns("v1", "v2", "v3", n=400), P, {}),
    ("split", {"weights": {"zone-a": 1, "zone-b": 1}, "by": "zone", "tolerance": 10}, turns("v1", "v2", "v3", n=900), F, {}),
    ("split", {"weights": {"v1": 1}, "service": "ratings"}, many(200), F, {}),
    ("never", {"arm": "v2", "below": 5}, many(200), P, {}),
    ("never", {"arm": "v2", "below": 5}, turns("v1", "v2"), F, {}),
    ("never", {"arm": "v2", "below": 5}, many(20), U, {}),
    ("atLeastOnce", {"arm": "v2", "above": 10}, turns("v1", "v2"), P, {}),
    ("atLeastOnce", {"arm": "v2", "above": 10}, many(200), F, {}),
    ("atLeastOnce", {"arm": "v2", "above": 10}, many(20), U, {}),
    ("status", 200, many(), P, {}),
    ("status", [200, 404], many(status=500), F, {}),
    ("status", 200, many(50, version="", status=503, body=REFUSED), F, {}),
    ("status", 200, [*many(45), *many(5, version="", status=503, body=REFUSED)], F, {}),
    ("status", 200, [*many(45), *many(5, version="", status=503, body=TIMED_OUT)], U, {}),
    ("status", 200, [*many(45), *many(5, version="", status=503, body=NO_ROUTE)], U, {}),
    ("status", 200, [*many(45), *many(5, version="", error="no answer within 15 s")], U, {}),
    ("never", {"arm": "v2", "below": 5}, [*many(120), *many(80, version="", status=503, body=REFUSED)], F, {}),
    ("body", {"contains": "red", "matches": "r.d$"}, many(body="all red"), P, {}),
    ("body", {"contains": "red"}, many(body="black"), F, {}),
    ("body", {"lacks": "red"}, many(body="all red"), F, {}),
    ("body", {"equals": "red"}, many(body="all red"), F, {}),
    ("header", {"name": "X-Version", "equals": "v1"}, many(), P, {}),
    ("header", {"name": "x-version", "equals": "v1"}, turns("v1", "v2"), F, {}),
    ("denied", {}, many(**DENIED), P, {}),
    ("denied", {}, [*many(30, **DENIED), *many(30)], F, {}),
    ("denied", {"at": "reviews-v1", "policy": "none"}, many(**DENIED), P, {"logs": {"reviews-v1": inbound(**NONE_MATCHED)}}),
    ("denied", {"at": "reviews-v1", "policy": "default/p"}, many(**DENIED), P, {"logs": {"reviews-v1": inbound(**BY_POLICY)}}),
    ("denied", {"at": "reviews-v1", "policy": "default/q"}, many(**DENIED), F, {"logs": {"reviews-v1": inbound(**BY_POLICY)}}),
    ("denied", {"at": "reviews-v1"}, many(**DENIED), F, {"logs": {"reviews-v1": inbound(response_code_details="x")}}),
    ("denied", {"at": "reviews-v1"}, many(**DENIED), U, {}),
    ("denied", {"by": "jwt"}, many(version="", status=401, body="Jwt is missing"), P, {}),
    ("denied", {"by": "jwt"}, many(), F, {}),
    ("denied", {"by": "tls"}, many(**CUT), P, {}),
    ("denied", {"by": "tls"}, many(), F, {}),
    ("denied", {"by": "tls"}, many(version="", error="No route to host"), U, {}),
    ("denied", {"by": "tls", "at": "reviews-v1"}, many(**CUT), P, {"logs": {"reviews-v1": NO_CHAIN}}),
    ("denied", {"by": "tls", "at": "reviews-v1"}, many(**CUT), F, {"logs": {"reviews-v1": inbound(**NONE_MATCHED)}}),
    ("denied", {"by": "tls", "at": "reviews-v1"}, many(**CUT), U, {"logs": {"reviews-v1": NO_CHAIN[:3]}}),
    ("denied", {"by": "tls", "at": "ratings"}, many(**CUT), U, {"logs": {"reviews-v1": NO_CHAIN}}),
    ("denied", {"by": "egress"}, many(**CUT), P, {"logs": {"client-v1": BLACKHOLE}}),
    ("denied", {"by": "egress", "at": "client"}, many(**CUT), P, {"logs": {"client-v1": BLACKHOLE}}),
    ("denied", {"by": "egress", "at": "reviews"}, many(**CUT), F, {"logs": {"client-v1": BLACKHOLE}}),
    ("denied", {"by": "egress"}, many(**CUT), F, {"logs": {"client-v1": log(upstream_cluster="PassthroughCluster")}}),
    ("denied", {"by": "egress"}, many(**CUT), U, {}),
    ("denied", {"by": "egress"}, many(version="", error="no answer within 2 s"), F, {}),
    ("attempts", {"service": "reviews", "each": 3}, many(status=503), P, {"arrivals": arrivals(3)}),
    ("attempts", {"service": "reviews", "each": 3}, many(status=503), F, {"arrivals": arrivals(4)}),
    ("attempts", {"service": "reviews", "each": 3}, many(status=503), F, {"arrivals": arrivals(2)}),
    ("attempts", {"service": "reviews", "version": "v2", "atLeast": 1}, many(), F, {"arrivals": arrivals(1)}),
    ("attempts", {"service": "reviews", "atMost": 2}, many(), P, {"arrivals": arrivals(2)}),
    ("attempts", {"service": "reviews", "average": {"atMost": 2}}, many(), P, {"arrivals": arrivals(2)}),
    ("attempts", {"service": "reviews", "average": {"atMost": 1.9}}, many(), F, {"arrivals": arrivals(2)}),
    ("attempts", {"service": "reviews", "average": {"atLeast": 1.1, "atMost": 3}}, many(), F, {"arrivals": arrivals(1)}),
    ("timeout", {"after": "1s"}, many(version="", status=504, took=1.02), P, {}),
    ("timeout", {"after": "1s"}, many(version="", status=504, took=2.02), F, {}),
    ("timeout", {"after": "1s"}, many(version="", status=504, took=0.9), F, {}),
    ("timeout", {"after": "1s"}, [*many(20, took=14.0, **GAVE_UP), *many(40, took=1.02, **GAVE_UP)], F, {}),
    ("timeout", {"after": "1s"}, [*many(1, took=14.0, **GAVE_UP), *many(59, took=1.02, **GAVE_UP)], F, {}),
    ("timeout", {"after": "1s"}, [*many(1, took=1.7, **GAVE_UP), *many(59, took=1.02, **GAVE_UP)], U, {}),
    ("timeout", {"after": "1s"}, many(), F, {}),
    ("timeout", {"after": "1s", "reached": "reviews"}, many(version="", status=504, took=1.02), F, {}),
    ("timeout", {"after": "1s", "reached": "reviews"}, many(version="", status=504, took=1.02), P, {"arrivals": arrivals(1)}),
    ("latency", {"quantile": 0.5, "below": "100ms"}, many(), P, {}),
    ("latency", {"quantile": 0.5, "below": "100ms"}, many(took=0.2), F, {}),
    ("latency", {"quantile": 0.5, "above": "100ms"}, many(), F, {}),
    ("latency", {"quantile": 0.99, "below": "100ms"}, many(), U, {}),
    ("sticky", {}, turns("v1", "v2"), P, {}),
    ("sticky", {}, turns("v1", "v2", "v3"), F, {}),
    ("sticky", {}, many(), F, {}),
    ("sticky", {"since": "before"}, turns("v1", "v2"), P, {"earlier_homes": {"before": {"k0": "reviews-v1", "k1": "reviews-v2"}}}),
    ("sticky", {"since": "before", "gone": ["reviews-v3"]}, turns("v1", "v2"), P, {"earlier_homes": {"before": HAD_V3}}),
    ("sticky", {"since": "before"}, turns("v1", "v2"), F, {"earlier_homes": {"before": HAD_V3}}),
    ("sticky", {"since": "before", "gone": ["reviews-v2"]}, turns("v1", "v2"), U, {"earlier_homes": {"before": HAD_V3}}),
    ("sticky", {"since": "before"}, turns("v1", "v2"), F, {"earlier_homes": {"before": {"k0": "reviews-v2"}}}),
    ("sticky", {"since": "before"}, turns("v1", "v2"), U, {}),
    ("balance", {"policy": "ROUND_ROBIN"}, turns("v1", "v2", "v3"), P, {}),
    ("balance", {"policy": "ROUND_ROBIN"}, turns("v1", "v2", "v3", "v1"), F, {}),
    ("balance", {"policy": "RANDOM"}, turns("v1", "v2", "v3", n=600), F, {}),
    ("balance", {"policy": "RANDOM"}, [*turns("v1", "v2", "v3", n=480), *many(120)], F, {}),
    ("balance", {"policy": "RANDOM"}, [*turns("v1", "v2", "v3", n=576), *many(24)], P, {}),
    ("balance", {"policy": "LEAST_REQUEST", "avoid": "reviews-v1"}, [*turns("v2", "v3", n=280), *many(20)], P, {}),
    ("balance", {"policy": "LEAST_REQUEST", "avoid": "reviews-v1"}, turns("v1", "v2", "v3", n=300), F, {}),
    ("overflow", {"most": 2, "refused": 8}, [*many(2), *many(8, **UO)], P, {}),
    ("overflow", {"most": 2, "refused": 8}, [*many(3), *many(7, **UO)], F, {}),
    ("overflow", {"most": 2, "refused": 8}, many(10), F, {}),
    ("overflow", {"most": 2, "refused": 8}, [*many(2), *many(8, version="", status=503, body=REFUSED)], U, {}),
    ("overflow", {"most": 2, "refused": 8}, [*many(2), *many(8, **UO), *many(30, version="", status=500)], F, {}),
    ("overflow", {"most": 2, "refused": 8}, [*many(2), *many(8, **UO), *many(30, status=503)], F, {}),
    ("overflow", {"most": 2, "refused": 8}, [*many(2, took=2), *many(8, took=1.9, **UO)], P, {}),
    ("overflow", {"most": 2, "refused": 8}, [*many(2, took=2), *many(7, **UO), sample(took=2.1, **UO)], F, {}),
    ("ejected", {"workload": "reviews-v1", "after": 3}, EJECTING, P, {}),
    ("ejected", {"workload": "reviews-v1", "after": 3}, NEVER_EJECTED, F, {}),
    ("ejected", {"workload": "reviews-v1", "after": 3}, many(100, version="v2"), U, {}),
    ("readmitted", {"workload": "reviews-v1", "within": "5s"}, [*many(30, version="v2"), sample(30, sent=3.0)], P, {}),
    ("readmitted", {"workload": "reviews-v1", "within": "5s"}, many(100, version="v2"), F, {}),
    ("readmitted", {"workload": "reviews-v1", "within": "5s"}, many(20, version="v2"), U, {}),
    ("readmitted", {"workload": "reviews-v1", "within": "5s"}, turns("v1", "v2"), U, {}),
    ("readmitted", {"workload": "reviews-v1", "within": "9s"}, BACK_AT_3, P, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "9s", "notBefore": "7s"}, BACK_AT_3, P, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "20s", "notBefore": "11s"}, BACK_AT_3, F, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "6s"}, BACK_AT_3, F, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "10s"}, many(version="v2"), F, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "12s"}, many(version="v2"), U, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "9s", "notBefore": "2s"}, turns("v1", "v2"), P, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "4s"}, turns("v1", "v2"), U, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "9s", "notBefore": "4s"}, turns("v1", "v2"), U, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "9s", "notBefore": "6s"}, turns("v1", "v2"), F, FAILED_BEFORE),
    ("readmitted", {"workload": "reviews-v1", "within": "9s"}, turns("v1", "v2"), U, OTHERS_CLOCK),
    ("readmitted", {"workload": "reviews-v1", "within": "9s", "notBefore": "6s"}, turns("v1", "v2"), F, FAILED_AGAIN),
    ("readmitted", {"workload": "reviews-v1", "within": "9s", "notBefore": "2s"}, turns("v1", "v2"), P, FAILED_AGAIN),
    ("encrypted", {"service": "reviews"}, many(), P, {"capture": TLS, **CONTROL}),
    ("encrypted", {"service": "reviews"}, many(), U, {"capture": TLS}),
    ("encrypted", {"service": "reviews"}, many(), U, {"capture": TLS, "controls": {("client-v1", "ratings", "http1")}}),
    ("encrypted", {"service": "reviews"}, many(), U, {"capture": TLS, "controls": {("client-v1", "reviews", "grpc")}}),
    ("encrypted", {"service": "reviews"}, many(), F, {"capture": tls_and(b"PRI * HTTP/2.0\r\n\r\nSM"), **CONTROL}),
    ("encrypted", {"service": "reviews"}, many(), F, {"capture": tls_and(b"POST /x HTTP/1.1\r\n"), **CONTROL}),
    ("encrypted", {"service": "reviews"}, many(), F, {"capture": tls_and(b"*1\r\n$4\r\nPING", syn=True), **CONTROL}),
    ("encrypted", {"service": "reviews"}, many(), P, {"capture": tls_and(b"\x17\x03\x03\x00\x10xyz"), **CONTROL}),
    ("encrypted", {"service": "reviews"}, many(), U, {"capture": tls_and(b"\x99\x01 the rest of a record"), **CONTROL}),
    ("encrypted", {"service": "reviews"}, many(), P, {"capture": hbone(), **CONTROL}),
    ("encrypted", {"service": "reviews"}, many(), U, {"capture": hbone()}),
    ("encrypted", {"service": "reviews"}, many(), U, {"capture": hbone(to=80), **CONTROL}),
    ("encrypted", {"service": "reviews"}, many(), U, {"capture": hbone(b"\x17\x03\x03\x00\x10xyz"), **CONTROL}),
    ("encrypted", {"service": "reviews"}, many(), F, {"capture": hbone(b"PRI * HTTP/2.0\r\n\r\nSM"), **CONTROL}),
    ("encrypted", {"service": "reviews", "plaintext": True}, many(), F, {"capture": hbone()}),
    ("encrypted", {"service": "reviews"}, many(), F, {"capture": PLAIN}),
    ("encrypted", {"service": "reviews"}, many(), F, {"capture": WRONG_SNI}),
    ("encrypted", {"service": "reviews"}, many(), U, {"capture": SILENT}),
    ("encrypted", {"service": "reviews", "plaintext": True}, many(), P, {"capture": PLAIN}),
    ("encrypted", {"service": "reviews", "plaintext": True}, many(), F, {"capture": TLS}),
    ("encrypted", {"service": "reviews", "plaintext": True}, many(), U, {"capture": SILENT}),
    ("encrypted", {"service": "ratings"}, many(), N, {"capture": TLS}),
    ("identity", {"service": "reviews"}, many(), P, {"logs": BOTH_ENDS}),
    ("identity", {"service": "reviews"}, many(), F, {"logs": WRONG_CALLER}),
    ("identity", {"service": "reviews"}, many(), F, {"logs": {**BOTH_ENDS, "client-v1": log()}}),
    ("identity", {"service": "reviews"}, many(), U, {"logs": {}}),
    ("config", {"workload": "client", "clusters": [r"outbound\|80\|\|reviews"]}, many(1), P, {"dump": DUMP}),
    ("config", {"workload": "client", "listeners": ["virtualInbound"]}, many(1), F, {"dump": DUMP}),
    ("config", {"workload": "client", "absent": ["outbound.*"]}, many(1), F, {"dump": DUMP}),
    ("telemetry", {"at": "client", "fields": {"response_flags": "^FI$"}}, many(), P, {"logs": {"client-v1": log(response_flags="FI")}}),
    ("telemetry", {"at": "client", "fields": {"response_flags": "^FI$"}}, many(), F, {"logs": {"client-v1": log(response_flags="-")}}),
    ("telemetry", {"at": "client", "fields": {"response_flags": "^FI$"}}, many(), F, {"logs": {}}),
    ("timeToEject", {"workload": "reviews-v2", "within": "1s"}, many(), P, EJECTED),
    ("timeToEject", {"workload": "reviews-v2", "within": "300ms"}, many(), F, EJECTED),
    ("timeToEject", {"workload": "reviews-v2", "within": "1s"}, many(), F, READMITTED_ONLY),
    ("timeToEject", {"workload": "reviews-v2", "within": "1s"}, many(), U, OTHER_BEFORE),
    ("timeToEject", {"workload": "reviews-v2", "within": "1s"}, many(), U, {"faults": [span(held=False)]}),
    ("timeToReadmit", {"workload": "reviews-v2", "within": "2s"}, [*many(50), *(sample(i, "v2") for i in range(50, 60))], P, BROKEN),
    ("timeToReadmit", {"workload": "reviews-v2", "within": "500ms"}, [*many(50), *(sample(i, "v2") for i in range(50, 60))], F, BROKEN),
    ("timeToReadmit", {"workload": "reviews-v2", "within": "1s"}, many(), F, BROKEN),
    ("timeToReadmit", {"workload": "reviews-v2", "within": "9s"}, many(), U, BROKEN),
    ("rescheduled", {"workload": "reviews-v2", "within": "1s"}, moved(2.8), P, BROKEN),
    ("rescheduled", {"workload": "reviews-v2", "within": "500ms"}, moved(2.8), F, BROKEN),
    ("rescheduled", {"workload": "reviews-v2", "within": "1s"}, moved(4.1), F, BROKEN),
    ("rescheduled", {"workload": "reviews-v2", "within": "1s"}, moved(2.8, node="node-v2"), F, BROKEN),
    ("rescheduled", {"workload": "reviews-v2", "within": "9s"}, moved(4.1), U, BROKEN),
    ("rescheduled", {"workload": "reviews-v2", "within": "1s"}, moved(1), U, BROKEN),
    ("rescheduled", {"workload": "reviews-v3", "within": "1s"}, moved(2.8), F, BROKEN),
    ("timeToFailover", {"within": "1s"}, hurt(2, 2.6), P, BROKEN),
    ("timeToFailover", {"within": "300ms"}, hurt(2, 2.6), F, BROKEN),
    ("timeToFailover", {"within": "1s"}, hurt(2, 4), F, BROKEN),
    ("timeToFailover", {"within": "1s", "zone": "zone-b"}, hurt(2, 2.6, version="v2"), P, BROKEN),
    ("timeToFailover", {"within": "1s", "zone": "zone-b"}, hurt(2, 2.6), F, BROKEN),
    ("timeToRecover", {"within": "1s"}, hurt(2, 4.5), P, BROKEN),
    ("timeToRecover", {"within": "1s"}, hurt(2, 6), F, BROKEN),
    ("timeToRecover", {"within": "1s"}, hurt(2, 99), F, BROKEN),
    ("timeToRecover", {"within": "1s"}, hurt(1, 4), U, BROKEN),
    ("errorsDuring", {"atMost": 6}, hurt(2, 2.6), P, BROKEN),
    ("errorsDuring", {"atMost": 5}, hurt(2, 2.6), F, BROKEN),
    ("errorsDuring", {"atMost": 9, "atLeast": 7}, hurt(2, 2.6), F, BROKEN),
    ("errorsDuring", {"atMost": 5}, many(), U, {}),
    ("noErrors", True, many(), P, BROKEN),
    ("noErrors", True, hurt(3, 3.1), F, BROKEN),
    ("goodput", {"during": 60, "settle": "1s"}, hurt(2, 2.6, n=300), P, BROKEN),
    ("goodput", {"during": 90, "settle": "1s"}, hurt(2, 2.6, n=300), F, BROKEN),
    ("goodput", {"settle": "1s"}, hurt(9, 9.1, n=300), F, BROKEN),
    ("goodput", {"settle": "1s"}, many(), U, BROKEN),
    ("goodput", {"settle": "1s"}, [sample(i, took=0.2 if i > 80 else 0.01) for i in range(300)], F, BROKEN),
    ("goodput", {"settle": "1s", "slower": 30}, [sample(i, took=0.2 if i > 80 else 0.01) for i in range(300)], P, BROKEN),
    ("goodput", {"settle": "1s", "slower": 20}, [sample(i, took=0.2 if i > 80 else 0.01) for i in range(300)], U, BROKEN),
    ("invariants", {}, hurt(2, 4.5, n=300), P, FROZEN_GUARDED),
    ("invariants", {"stranger": False}, hurt(2, 4.5, n=300), P, FROZEN),
    ("invariants", {}, hurt(2, 9, n=300), F, FROZEN_GUARDED),
    ("invariants", {}, hurt(2, 4.5, n=300), F, {**AWAY, "faults": [span(fault=freeze("ratings-v1"), nodes=("node-v3",))]}),
    ("invariants", {}, hurt(2, 4.5, n=300), U, WEAK),
    ("invariants", {}, hurt(2, 9, n=300), F, WEAK),
    ("invariants", {}, many(), P, UNPROVED_GUARDED),
    ("invariants", {}, many(), U, {**UNPROVED_GUARDED, "faults": [span(), span(held=False)]}),
    ("invariants", {}, many(), U, {**AWAY, "faults": []}),
    ("invariants", {}, many(), U, {**GUARDED, "trouble": ["client: read its log: it is gone"]}),
    ("invariants", {}, hurt(2, 9, n=300), U, {**FROZEN_GUARDED, "trouble": ["client: read its log: it is gone"]}),
    ("invariants", {}, hurt(1, 4.5, n=300), U, FROZEN_GUARDED),
    ("invariants", {}, many(), F, {**GUARDED, "trouble": ["lost"], "strangers": {"reviews-v1": many(1)}}),
    ("invariants", {}, many(), F, {**BROKEN, "strangers": {**AWAY["strangers"], "reviews-v3": many(1)}}),
    ("invariants", {}, many(), U, BROKEN),
    ("invariants", {}, many(), U, {**BROKEN, "strangers": {"reviews-v1": many(9, error="no answer within 3 s")}}),
    ("invariants", {}, many(), U, {**BROKEN, "strangers": {**AWAY["strangers"], "reviews-v3": many(9, error="No route to host")}}),
    ("invariants", {}, [*many(50), sample(50, x_request_id="run7-7")], F, GUARDED),
    ("invariants", {}, many(), F, {**GUARDED, "unsettled": "reviews-v2: behind on cds.json"}),
    ("invariants", {}, one_hung(), F, hungry("node-v2", 0.4)),
    ("invariants", {}, one_hung(), U, hungry("node-v2", 0.6)),
    ("invariants", {}, one_hung(), P, hungry("node-v2", 0.6, longest=0.05)),
    ("invariants", {}, one_hung(n=900), U, hungry("node-v2", 0.6, longest=0.05)),
    ("invariants", {}, one_hung(), F, hungry("elsewhere", 0.9)),
    ("invariants", {}, [*one_hung(), sample(2000, status=503, version="")], F, hungry("node-v2", 0.9)),
    ("isolation", {"service": "ratings"}, many(), P, {**BROKEN, "bystanders": CALM}),
    ("isolation", {"service": "ratings"}, many(), F, {**BROKEN, "bystanders": SLOWER}),
    ("isolation", {"service": "ratings"}, many(), F, {**BROKEN, "bystanders": hurt(3, 3.1)}),
    ("isolation", {"service": "ratings"}, many(), U, {**BROKEN, "bystanders": many(20)}),
    ("isolation", {"service": "ratings"}, many(), U, {**BROKEN, "bystanders": CALM[:60]}),
    ("isolation", {"service": "ratings", "below": 20}, many(), P, {**BROKEN, "bystanders": CALM[:60]}),
    ("isolation", {"service": "ratings", "below": 20, "slower": 5}, many(), U, {**BROKEN, "bystanders": SLOWER}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "expected", "samples", "outcome", "evidence"), CASES)
def test_an_expectation_has_its_verdict(kind, expected, samples, outcome, evidence):
    verdict = judged({kind: expected}, samples, traffic={"concurrency": 1}, **evidence)
    assert verdict.outcome is outcome, verdict.reason
    assert 1 <= len(verdict.reason.splitlines()) <= 2


def test_losses_are_counted_by_their_causes():
    known = judged({"errorsDuring": {"atMost": 9}}, hurt(2, 2.4, n=300), **FROZEN)
    assert "; 4 x freeze n: 503" in known.reason
    unknown = judged({"noErrors": True}, hurt(2, 2.2, n=300), **BROKEN)
    assert unknown.outcome is Outcome.FAIL and "; 2 x unexplained: " in unknown.reason


def test_every_expectation_is_shown_to_hold_and_to_fail():
    shown = {kind: {outcome for k, _, _, outcome, _ in CASES if k == kind} for kind in BUILDERS}
    assert all({P, F} <= outcomes for outcomes in shown.values()), shown


@pytest.mark.parametrize(("hits", "outcome"), [(700, P), (850, U), (1000, F)])
def test_a_large_sample_between_spared_and_even_speaks_for_neither(hits, outcome):
    samples = [*many(hits), *turns("v2", "v3", n=3000 - hits)]
    expected = {"balance": {"policy": "LEAST_REQUEST", "avoid": "reviews-v1"}}
    assert judged(expected, samples, traffic={"requests": 3000}).outcome is outcome


def test_an_instance_that_is_back_after_an_absence_ends_the_waiting():
    when = Traffic.model_validate({"from": "client", "service": "reviews", "requests": 300})
    expected = Expectation.model_validate({"readmitted": {"workload": "reviews-v1", "within": "9s"}})
    judge = build(expected, Terms(when), TOPOLOGY)
    for s in BACK_AT_3:
        assert not judge.settled
        judge.take(s)
    assert judge.settled


def test_a_first_packet_that_was_lost_and_sent_again_makes_no_plaintext_of_tls():
    hello = client_hello("outbound_.80_._.reviews.default.svc.cluster.local")
    parts = [(hello[60:], 60), (hello[:60], 0)]
    late = pcap(
        segment("10.0.0.1", "10.0.0.3", hello),
        segment("10.0.0.1", "10.0.0.3", b"", port=40001, syn=True),
        *(segment("10.0.0.1", "10.0.0.3", part, port=40001, at=at) for part, at in parts),
    )
    assert judged({"encrypted": {"service": "reviews"}}, many(), capture=late, **CONTROL).outcome is P


def test_where_proxies_log_no_ejections_nothing_is_said_of_one_and_the_rest_is_judged():
    lacks = SimpleNamespace(applied=ResourceSet, not_applicable=lambda feature: f"no log of {feature}")
    expected = {"timeToEject": {"workload": "reviews-v2", "within": "1s"}}
    assert judged(expected, many(), lab={"backend": lacks}, **EJECTED).outcome is N
    both = judged({**expected, "status": 200}, many(), lab={"backend": lacks}, **EJECTED)
    assert both.outcome is P
    assert "not judged: timeToEject: no log of ejections" in both.reason


def test_of_pods_the_flow_is_told_by_the_addresses_that_it_has_on_the_wire():
    """Those of the topology are nobody's there: a capture of theirs would be found empty, or worse, harmless."""
    addresses = {
        "client-v1": {"10.42.1.9", "10.78.0.11"},
        "reviews-v2": {"10.42.2.7"},
        "reviews-v3": {"10.78.0.250"},
    }
    at = {name: frozenset(map(IPv4Address, found)) for name, found in addresses.items()}
    backend = SimpleNamespace(applied=ResourceSet, wire_addresses=lambda name: at[name])
    plain = b"GET / HTTP/1.1\r\nx-testbed-request: run7-0\r\n\r\n"

    def verdict(source, target):
        expected = {"encrypted": {"service": "reviews"}}
        return judged(
            expected, many(), lab={"backend": backend}, capture=pcap(segment(source, target, plain))
        ).outcome

    assert verdict("10.42.1.9", "10.42.2.7") is F, "from pod to pod"
    assert verdict("10.78.0.11", "10.78.0.250") is F, "out of the cluster under the node's address"
    assert verdict("10.42.2.7", "10.42.1.9") is F, "an answer"
    assert verdict("10.0.0.1", "10.0.0.3") is U, "as the topology has it"
    assert verdict("10.42.1.9", "10.42.3.3") is U, "to somebody else"


@pytest.mark.parametrize("run", ["00000000", "ffffffff", "0a1b2c3d", "deadbeef", "12345678"])
@pytest.mark.parametrize("huffman", [True, False])
def test_the_marker_is_found_in_headers_of_http2_however_they_are_written(run, huffman):
    encoder = Encoder()
    for seq in (0, 1, 1234):
        block = encoder.encode([("x-request-id", "other"), ("x-testbed-request", f"{run}-{seq}")], huffman=huffman)
        assert any(m in block for m in markers(run))
        other = encoder.encode([("x-testbed-request", f"9{run[:-1]}-{seq}")], huffman=huffman)
        assert not any(m in other for m in markers(run)) or run == f"9{run[:-1]}"


def test_a_control_that_passed_counts_for_the_steps_after_it():
    controls = set()
    asked = {"encrypted": {"service": "reviews", "plaintext": True}}
    assert judged(asked, many(), capture=PLAIN, controls=controls).outcome is P
    assert judged({"encrypted": {"service": "reviews"}}, many(), capture=TLS, controls=controls).outcome is P


def test_expectations_are_put_together():
    good, bad, unsure = {"status": 200}, {"status": 404}, {"never": {"arm": "v9"}}
    assert judged({"all": [good, bad]}, many()).outcome is F
    assert judged({"all": [good, unsure]}, many()).outcome is U
    assert judged({"all": [bad, unsure]}, many()).outcome is F
    assert judged({"any": [bad, good]}, many()).outcome is P
    assert judged({"any": [bad, unsure]}, many()).outcome is U
    assert judged({"not": bad}, many()).outcome is P
    assert judged({"not": unsure}, many()).outcome is U
    assert judged({"status": 200, "header": {"name": "x-version", "equals": "v2"}}, many()).outcome is F
