"""What lost requests were lost to: faults, what proxies wrote down, and what the configuration promises."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from testbed.errors import TestbedError
from testbed.model.topology import MeshWorkload, ProxyKind
from testbed.report.record import Loss
from testbed.scenarios.causes import Scene, losses, promises_of
from testbed.scenarios.evidence import AccessLogEntry, Evidence
from testbed.scenarios.holdings import under_way
from testbed.scenarios.ways import Ways
from testbed.traffic import Sample


def explained(
    lost: Sequence[Sample], samples: Sequence[Sample], service: str, evidence: Evidence, trouble: list[str]
) -> tuple[Loss, ...]:
    """Each of the ``lost``, which are among ``samples``, with its cause.  ``trouble`` gets what can't be read."""
    return losses(lost, _scene(lost, samples, service, evidence, trouble)) if lost else ()


def _scene(
    lost: Sequence[Sample], samples: Sequence[Sample], service: str, evidence: Evidence, trouble: list[str]
) -> Scene:
    lab = evidence.lab
    gateways = tuple(w for w in lab.topology.workloads if w.kind is ProxyKind.GATEWAY)
    callers = (evidence.caller,) if evidence.caller else gateways
    ids = {evidence.spec.request_id(s.seq) for s in lost}
    ids |= {s.headers["x-request-id"] for s in lost if "x-request-id" in s.headers}
    at_least = len(lost) if evidence.caller else 0  # a gateway gives ids of its own

    def trail(workload: MeshWorkload) -> tuple[list[AccessLogEntry], list[str]]:
        try:
            return evidence.trail(workload, ids, at_least if workload is evidence.caller else 0)
        except TestbedError as e:
            trouble.append(str(e))
            return [], []

    with ThreadPoolExecutor(8) as pool:
        trails = list(pool.map(trail, lab.topology.workloads))
    found = dict(zip((w.name for w in lab.topology.workloads), trails, strict=True))
    ways = Ways(
        lab.topology,
        callers,
        lab.of_name(service),
        evidence.spec,
        {name: entries for name, (entries, _) in found.items()},
        {name: clusters for name, (_, clusters) in found.items()},
    )
    promises = promises_of(lab.backend.applied(), service)
    most = 2 * under_way(samples)  # Envoy's pools connect ahead
    return Scene(evidence.faults, evidence.marks, ways, promises, most, evidence.resolution, evidence.processors)
