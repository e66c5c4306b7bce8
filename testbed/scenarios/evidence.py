"""What a judge may look at after the traffic: read from the lab when first asked for, and kept for the bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.model.topology import MeshWorkload
from testbed.report.record import Arrival
from testbed.scenarios.lab import LabUnderTest
from testbed.traffic import Sample, TrafficSpec


@dataclass
class Evidence:
    """One step's."""

    lab: LabUnderTest
    spec: TrafficSpec
    caller: MeshWorkload | None
    samples: list[Sample] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    attachments: dict[str, bytes] = field(default_factory=dict)
    _logs: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)

    def access_log(self, workload: str) -> list[Mapping[str, Any]]:
        """The proxy's access log entries of this run's requests, oldest first."""
        if workload not in self._logs:
            path = self.lab.access_log.format(workload=workload)
            connection = self.lab.backend.connection(workload)
            # a request's line is written when its stream is done, at the latest with the next flush of the log
            text = connection.run(["grep", "-F", self.spec.run, path], check=False).stdout
            self.attachments[f"access/{workload}.log"] = text
            self._logs[workload] = [json.loads(line) for line in text.splitlines() if line.startswith(b"{")]
        return self._logs[workload]

    def admin(self, workload: str, path: str) -> Any:
        """A JSON answer of the proxy's admin port."""
        body = self.lab.backend.admin(workload, path)
        self.attachments[f"admin/{workload}{path.partition('?')[0].replace('/', '_')}.json"] = body
        return json.loads(body)

    def arrivals_at(self, service: str, version: str | None = None) -> dict[str, int]:
        """Request id -> how often it arrived at the service's programs."""
        names = {w.name for w in self.lab.of_name(service) if version is None or w.version == version}
        counts: dict[str, int] = {}
        for arrival in self.arrivals:
            if arrival.workload in names:
                counts[arrival.request] = counts.get(arrival.request, 0) + 1
        return counts

    def zone_of(self, instance: str) -> str:
        """The zone of the workload that answered; empty when the answer names none of the lab's."""
        for workload in self.lab.topology.workloads:
            if workload.name == instance:
                return workload.locality.zone
        return ""
