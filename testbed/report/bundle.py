"""The evidence of a run: a folder, and the same as one compressed file."""

from __future__ import annotations

import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path

import yaml

from testbed.model.topology import Topology
from testbed.report.junit import junit_xml
from testbed.report.page import page_of, section
from testbed.report.plain import masked, record_json, redacted
from testbed.report.record import ScenarioRecord, StepRecord


class Bundle:
    """A bundle that grows while scenarios run: whatever ends a run, what was seen until then is there."""

    def __init__(
        self, folder: Path, *, topology: Topology | None = None, versions: Mapping[str, object] | None = None
    ) -> None:
        """Make the folder.  Raises OSError, and FileExistsError where a bundle is: a rerun is a new verdict and
        both are kept.  ``versions`` names programs of the lab."""
        if (folder / "result.json").exists():
            raise FileExistsError(f"{folder}: there is a bundle already")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.topology = topology
        self.records: list[ScenarioRecord] = []
        self._names: list[str] = []
        self._sections: list[str] = []
        own = {"testbed": version("testbed"), "python": platform.python_version(), "system": platform.platform()}
        self.write({"versions.json": _json(own | dict(versions or {}))})

    def keep(self, record: ScenarioRecord) -> ScenarioRecord:
        """Write a record's own folder; returns it with its verdict pointing at the bundle."""
        record = replace(record, verdict=record.verdict.with_evidence(str(self.folder)))
        base = f"{record.scenario.name}-mutant" if record.mutant else record.scenario.name
        numbered = (f"{base}-{n}" if n > 1 else base for n in count(1))
        self._names.append(next(name for name in numbered if name not in self._names))
        _scenario(record, self.folder / self._names[-1])
        return record

    def add(self, record: ScenarioRecord) -> ScenarioRecord:
        """Keep a record and have the bundle's result, page and JUnit XML tell of it."""
        record = self.keep(record)
        self._sections.append(section(f"s{len(self.records)}", record, self.topology))
        self.records.append(record)
        self.summarize()
        return record

    def summarize(self) -> None:
        """Write result, page and JUnit XML anew."""
        self.write(
            {
                "result.json": _json([record_json(r) for r in self.records]),
                "junit.xml": junit_xml(self.records).encode(),
                "report.html": page_of(self.records, self._sections).encode(),
            }
        )

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files by relative path, secrets taken out; a reader finds the old one or the new one."""
        for path, content in files.items():
            _write(self.folder / path, content)

    def close(self, extra: Mapping[str, bytes] | None = None) -> None:
        """Add the last files, such as consoles, and make ``folder.tar.zst`` of it all."""
        self.write(extra or {})
        _compress(self.folder)


def write_bundle(
    records: Sequence[ScenarioRecord],
    folder: Path,
    *,
    topology: Topology | None = None,
    versions: Mapping[str, object] | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> tuple[ScenarioRecord, ...]:
    """A whole :class:`Bundle` at once, below ``folder``, and ``folder.tar.zst`` beside it."""
    bundle = Bundle(folder, topology=topology, versions=versions)
    bundle.summarize()
    for record in records:
        bundle.add(record)
    bundle.close(extra)
    return tuple(bundle.records)


def _scenario(record: ScenarioRecord, folder: Path) -> None:
    plain = record.scenario.model_dump(by_alias=True, exclude_unset=True, mode="json")
    _write(folder / "scenario.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
    if record.mutant:
        _write(folder / "mutant.txt", f"{record.mutant}\n{record.outcome}: {record.verdict.reason}\n".encode())
    for number, step in enumerate(record.steps, 1):
        _step(step, folder / (f"{number}-{step.name.replace(' ', '-')}" if step.name else f"{number}"))


def _step(step: StepRecord, folder: Path) -> None:
    run = step.spec.run if step.spec else ""
    samples = (
        {
            "id": f"{run}-{s.seq}",
            "status": s.status,
            "sent": round(s.sent, 6),
            "took": round(s.took, 6),
            "connection": s.connection,
            "headers": dict(s.headers),
            "error": s.error,
            "body": s.body[:200],
        }
        for s in step.samples
    )
    arrivals = (
        {"id": a.request, "workload": a.workload, "number": a.number, "status": a.status} for a in step.arrivals
    )
    paths = [
        {"arm": p.arm, "declared": p.declared, "low": p.low, "high": p.high, "accept_at": p.accept_at,
         "reject_at": p.reject_at, "points": p.points}
        for p in step.paths
    ]  # fmt: skip
    _write(folder / "samples.jsonl", b"".join(_line(s) for s in samples))
    _write(folder / "arrivals.jsonl", b"".join(_line(a) for a in arrivals))
    _write(folder / "resources.yaml", step.resources.encode())
    if paths:
        _write(folder / "paths.json", _json(paths))
    if step.spec:
        _write(folder / "traffic.json", step.spec.to_json())
    if step.revisions:
        machines = [
            {
                "node": m.node,
                "waited": m.waited,
                "segments": m.sent,
                "sent_again": m.sent_again,
                "needless": m.needless,
            }
            for m in step.machines
        ]
        _write(folder / "lab.json", _json({"revisions": dict(step.revisions), "machines": machines}))
    for path, content in step.attachments.items():
        _write(folder / path, content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(masked(content) if path.suffix == ".pcap" else redacted(content))
    partial.replace(path)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _compress(folder: Path) -> None:
    import zstandard

    target = folder.with_name(folder.name + ".tar.zst")
    partial = target.with_name(target.name + ".partial")
    with (
        partial.open("wb") as file,
        zstandard.ZstdCompressor(level=10).stream_writer(file) as stream,
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):
        tar.add(folder, arcname=folder.name)
    partial.replace(target)
