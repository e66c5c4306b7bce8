"""What a judge may look at after the traffic: read from the lab when first asked for, and kept for the bundle."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from testbed.errors import LabError, WaitTimeout
from testbed.model.topology import MeshWorkload
from testbed.report.record import Arrival, ClockRecord, FaultSpan, Loss, Mark
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.processors import Processors
from testbed.traffic import Sample, TrafficSpec
from testbed.waiting import NotYet, wait_until

LOG_LIMIT = 12.0
"""Seconds; Envoy writes its buffered access log out every 10 s unless told otherwise."""
TRAIL_LIMIT = 300.0
"""Seconds for a node to send what it wrote down of lost requests: after an hour of faults some ten megabytes."""


@dataclass(frozen=True)
class AccessLogEntry:
    """One line of a proxy's access log, by the field names of the compiler's format."""

    fields: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        """A field's text; empty when it has none."""
        return self.fields.get(name, "")

    @property
    def inbound(self) -> bool:
        """Whether the proxy was the callee's: its own program is upstream (Istio's cluster name)."""
        return self["upstream_cluster"].startswith("inbound|")

    @property
    def started(self) -> float:
        """When it began, in seconds of the proxy's wall clock; 0 where it does not say."""
        text = self["start_time"].replace("Z", "+00:00")
        return datetime.fromisoformat(text).timestamp() if text else 0.0

    def holds(self, words: str) -> bool:
        """Whether some field's text has ``words`` in it."""
        return any(words in text for text in self.fields.values())

    @classmethod
    def read(cls, line: bytes) -> AccessLogEntry:
        """From JSON; a field without a value is absent or null."""
        return cls({k: str(v) for k, v in json.loads(line).items() if v is not None})

    @classmethod
    def read_all(cls, lines: Iterable[bytes]) -> list[AccessLogEntry]:
        """Those that there are: a machine that lost its power leaves zeros and half of a line, and the next line
        joined to it."""
        found: list[AccessLogEntry] = []
        for line in lines:
            for text in (line.strip(b"\0 "), line[max(0, line.rfind(b'{"')) :]):
                with suppress(ValueError, AttributeError):
                    found.append(cls.read(text))
                    break
        return found


Control = tuple[str, str, str]
"""Caller, service and protocol of which a capture has shown the marker while mTLS was off."""


@dataclass(frozen=True)
class PastTraffic:
    """The traffic of an earlier step."""

    sender: str
    """The workload that sent it, whose clock ``began`` is of; empty for this host's."""
    began: float
    samples: tuple[Sample, ...]


@dataclass
class Evidence:
    """One step's."""

    lab: LabUnderTest
    spec: TrafficSpec
    caller: MeshWorkload | None
    samples: list[Sample] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    attachments: dict[str, bytes] = field(default_factory=dict)
    capture: bytes | None = None
    """A pcap of the caller's machine while the traffic ran; None when nobody asked or none could be taken."""
    homes: dict[str, str] = field(default_factory=dict)
    """Value that the traffic varies -> the instance that it stays with, once a judge has found that it does."""
    earlier_homes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The same of the steps before, by name."""
    controls: set[Control] = field(default_factory=set)
    """Positive controls of captures that have passed, in this step and in those before."""
    opened: float = field(default_factory=time.monotonic)
    """This host's monotonic clock before anything was sent, in seconds."""
    began: float | None = None
    """The sender's monotonic clock when the traffic began, in seconds."""
    earlier: Sequence[PastTraffic] = ()
    """The traffic of the steps before, oldest first."""
    faults: list[FaultSpan] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    clocks: tuple[ClockRecord, ...] = ()
    """How far each guest's clock was from the host's, before and after the faults."""
    resolution: float = 0.0
    """How well the times of faults and those of samples are known to each other, in seconds."""
    bystanders: list[Sample] = field(default_factory=list)
    """Requests to a service that is not concerned, sent all the while."""
    strangers: dict[str, list[Sample]] = field(default_factory=dict)
    """Instance -> requests to it without a certificate, sent all the while."""
    losses: tuple[Loss, ...] = ()
    """What was lost under faults, once a judge has looked for causes."""
    unsettled: str = ""
    """What was still not as before long after all faults were undone."""
    processors: Processors = field(default_factory=Processors)
    """When machines had no processor of their host, on the run's clock."""
    spoiled: list[str] = field(default_factory=list)
    """Faults that went wrong: what was said."""
    put_off: list[str] = field(default_factory=list)
    """Faults that were never made, because the traffic ended before their machines were well."""
    trouble: list[str] = field(default_factory=list)
    """What else went wrong with the lab, so that something was not seen."""
    _logs: dict[str, list[AccessLogEntry]] = field(default_factory=dict)

    @property
    def sender(self) -> str:
        """The workload that sends; empty for this host."""
        return self.caller.name if self.caller else ""

    def as_past(self) -> PastTraffic:
        """This step's traffic, as later steps look back at it."""
        return PastTraffic(self.sender, self.began or 0.0, tuple(self.samples))

    def access_log(self, workload: MeshWorkload, at_least: int = 0) -> list[AccessLogEntry]:
        """The proxy's entries of this run's requests, oldest first; waits for ``at_least`` (Envoy buffers them).

        A gateway gives requests ids of its own: there it goes by the authority, and behind it by the ids that the
        programs answer with.
        """
        if len(self._logs.get(workload.name, ())) < max(1, at_least):
            ids = {self.spec.request_id(s.seq) for s in self.samples}
            ids |= {s.headers["x-request-id"] for s in self.samples if "x-request-id" in s.headers}

            def enough() -> list[AccessLogEntry]:
                entries = self._read_log(workload, ids)
                if len(entries) < at_least:
                    raise NotYet(f"{len(entries)} of {at_least} entries")
                return entries

            name = f"access log of {workload.name}"
            try:
                self._logs[workload.name] = wait_until(name, enough, limit=LOG_LIMIT, interval=0.5)
            except WaitTimeout:
                self._logs[workload.name] = self._read_log(workload, ids)
        return self._logs[workload.name]

    def _read_log(self, workload: MeshWorkload, ids: set[str]) -> list[AccessLogEntry]:
        path = self.lab.guest.layout.access_log(workload)
        lines = str(3 * len(self.samples) + 200)
        text = self.lab.backend.connection(workload.name).run(["tail", "-n", lines, path], check=False).stdout
        self.attachments[f"access/{workload.name}.log"] = text
        entries = AccessLogEntry.read_all(text.split(b"\n"))
        ours = self.spec.authority if self.spec.run in self.spec.authority else None
        return [e for e in entries if e["x_request_id"] in ids or e["authority"] == ours]

    def connections(self, workloads: Sequence[MeshWorkload], words: str, at_least: int) -> list[AccessLogEntry]:
        """The proxies' entries since the traffic began, of connections and requests alike; waits for ``at_least``
        of them that hold ``words``."""

        def enough() -> list[AccessLogEntry]:
            entries = [e for w in workloads for e in self._since_opened(w)]
            if (found := sum(e.holds(words) for e in entries)) < at_least:
                raise NotYet(f"{found} of {at_least} entries with {words}")
            return entries

        try:
            name = f"access logs of {', '.join(w.name for w in workloads)}"
            return wait_until(name, enough, limit=LOG_LIMIT, interval=0.5)
        except WaitTimeout:
            return [e for w in workloads for e in self._since_opened(w)]

    def _since_opened(self, workload: MeshWorkload) -> list[AccessLogEntry]:
        """The proxy's clock is asked along with its log, for it may be wrong."""
        path = shlex.quote(self.lab.guest.layout.access_log(workload))
        script = f"date +%s.%N; tail -n {3 * len(self.samples) + 200} {path}"
        said = self.lab.backend.connection(workload.name).run(["sh", "-c", script], check=False).stdout
        clock, _, text = said.partition(b"\n")
        try:
            opened = float(clock) - (time.monotonic() - self.opened)
        except ValueError:
            raise LabError(workload.name, "ask for its time", f"it said {said[:80]!r}", "testbed status") from None
        self.attachments[f"access/{workload.name}.log"] = text
        entries = AccessLogEntry.read_all(x for x in text.split(b"\n") if x.endswith(b"}"))
        return [e for e in entries if e.started >= opened]

    def trail(
        self, workload: MeshWorkload, ids: Set[str], at_least: int = 0
    ) -> tuple[list[AccessLogEntry], list[str]]:
        """The proxy's entries of some requests, and the outbound clusters that it has ever called.  Waits for
        ``at_least`` entries; a proxy that was killed has lost its last ones, so fewer are no error."""
        path = shlex.quote(self.lab.guest.layout.access_log(workload))
        called = '"upstream_cluster":"outbound'
        # -a: zeros that a power loss left would make it a binary file, of which grep shows nothing
        script = f"grep -a -F -f - {path}; grep -a -o '{called}[^\"]*' {path} | sort -u"
        wanted = "".join(f'"{i}"\n' for i in sorted(ids)).encode()

        def look() -> tuple[list[AccessLogEntry], list[str]]:
            run = self.lab.backend.connection(workload.name).run
            said = run(["sh", "-c", script], stdin=wanted, limit=TRAIL_LIMIT, check=False)
            lines = said.stdout.split(b"\n")
            entries = AccessLogEntry.read_all(x for x in lines if x.endswith(b"}"))
            names = [x for x in lines if x.startswith(b'"')]
            return entries, [x.decode(errors="replace").rpartition('"')[2] for x in names]

        def enough() -> tuple[list[AccessLogEntry], list[str]]:
            found = look()
            if len(found[0]) < at_least:
                raise NotYet(f"{len(found[0])} of {at_least} entries")
            return found

        try:
            return wait_until(f"entries of {workload.name}", enough, limit=LOG_LIMIT, interval=0.5)
        except WaitTimeout:
            return look()

    def admin(self, workload: str, path: str) -> Any:
        """A JSON answer of the proxy's admin port."""
        body = self.lab.backend.admin(workload, path)
        self.attachments[f"admin/{workload}{path.partition('?')[0].replace('/', '_')}.json"] = body
        return json.loads(body)

    def gather(self, concerned: Sequence[MeshWorkload], *, everything: bool) -> None:
        """Keep the ends of access logs and the callers' configuration for readers of the bundle; ``everything``
        keeps all configurations.  What can't be had is said in its place."""
        dumped = concerned if everything else concerned[:1]
        wanted = [(w, True) for w in concerned if f"access/{w.name}.log" not in self.attachments]
        wanted += [(w, False) for w in dumped]
        with ThreadPoolExecutor(max(1, len(wanted))) as pool:
            list(pool.map(lambda each: self._keep(*each), wanted))

    def _keep(self, workload: MeshWorkload, log: bool) -> None:
        name = f"access/{workload.name}.log" if log else f"config/{workload.name}.json"
        try:
            if log:
                command = ["tail", "-n", "200", self.lab.guest.layout.access_log(workload)]
                text = self.lab.backend.connection(workload.name).run(command, check=False).stdout
            else:
                text = self.lab.backend.admin(workload.name, "/config_dump")
        except LabError as e:
            text = f"{e}\n".encode()
        self.attachments[name] = text

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
