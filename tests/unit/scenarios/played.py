"""Samples and evidence that are given instead of gathered, and what a judge says of them."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from types import SimpleNamespace

from testbed.model.expectation import Expectation
from testbed.model.scenario import Traffic
from testbed.model.topology import Locality, MeshWorkload, ProxyKind, Topology
from testbed.report.record import Arrival
from testbed.resources import ResourceSet
from testbed.scenarios.building import build
from testbed.scenarios.evidence import AccessLogEntry, Evidence
from testbed.scenarios.judge import Terms
from testbed.traffic import Request, Sample, TrafficSpec

ZONES = {"v1": "zone-a", "v2": "zone-b", "v3": "zone-a"}
TOPOLOGY = Topology(
    (),
    tuple(
        MeshWorkload(
            f"{app}-{v}", "default", app, {"app": app, "version": v}, IPv4Address(f"10.0.0.{i}"), f"node-{v}",
            Locality("r", ZONES[v]), service=app if app != "client" else "",
        )
        for i, (app, v) in enumerate(
            [("client", "v1"), ("reviews", "v1"), ("reviews", "v2"), ("reviews", "v3"), ("ratings", "v1")], 1
        )
    ),
)  # fmt: skip
CLIENT = TOPOLOGY.workloads[0]


class Lab(SimpleNamespace):
    topology = TOPOLOGY
    backend = SimpleNamespace(
        applied=ResourceSet,
        wire_addresses=lambda name: frozenset({TOPOLOGY.workload(name).address}),
        not_applicable=lambda feature: None,
    )

    def of_name(self, name):
        found = tuple(w for w in TOPOLOGY.workloads if name in (w.name, w.labels["app"]))
        return tuple(w for w in found if w.kind is not ProxyKind.GATEWAY)


@dataclass
class Played(Evidence):
    """Evidence with access logs and dumps that are given instead of read."""

    logs: dict = field(default_factory=dict)
    dump: dict = field(default_factory=dict)

    def access_log(self, workload, at_least=0):
        return [AccessLogEntry(fields) for fields in self.logs.get(workload.name, ())]

    def connections(self, workloads, words, at_least):
        return [e for w in workloads for e in self.access_log(w)]

    def trail(self, workload, ids, at_least=0):
        return [e for e in self.access_log(workload) if e["x_request_id"] in ids], []

    def admin(self, workload, path):
        return self.dump


def sample(seq=0, version="v1", status=200, took=0.01, body="", error="", sent=None, **headers):
    who = {"x-service": "reviews", "x-version": version, "x-instance": f"reviews-{version}"} if version else {}
    answer = {**who, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return Sample(
        seq, seq % 4, 0 if error else status, sent if sent is not None else seq / 10, took, 1, answer, error, body
    )


def judged(expectation, samples, *, traffic=None, lab=None, **evidence):
    when = Traffic.model_validate({"from": "client", "service": "reviews", **(traffic or {})})
    judge = build(Expectation.model_validate(expectation), Terms(when), TOPOLOGY)
    samples = [Sample(i, i % 4, *s[2:]) for i, s in enumerate(map(astuple, samples))]
    spec = TrafficSpec(
        "run7", "10.0.0.9", 80, "reviews", tuple(Request(key=f"k{i}") for i in range(4)), len(samples)
    )
    found = Played(Lab(**(lab or {})), spec, CLIENT, **evidence)
    for s in samples:
        found.samples.append(s)
        judge.take(s)
        if judge.settled:
            break
    return judge.conclude(found)


def astuple(s):
    return (s.seq, s.variant, s.status, s.sent, s.took, s.connection, s.headers, s.error, s.body)


def many(n=60, **fields):
    return [sample(i, **fields) for i in range(n)]


def turns(*versions, n=60):
    return [sample(i, version=versions[i % len(versions)]) for i in range(n)]


def arrivals(times, version="v1", n=60):
    return [Arrival(f"run7-{i}", f"reviews-{version}", 0, 200) for i in range(n) for _ in range(times)]


def log(**fields):
    return [{"upstream_cluster": "outbound|80||reviews", "x_request_id": f"run7-{i}", **fields} for i in range(60)]


def inbound(**fields):
    return [{**entry, "upstream_cluster": "inbound|80||"} for entry in log(**fields)]
