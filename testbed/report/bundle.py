"""The evidence of a run: a folder, and the same as one compressed file."""

from __future__ import annotations

import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import yaml

from testbed.model.topology import Topology
from testbed.report.junit import junit_xml
from testbed.report.page import html_page
from testbed.report.plain import record_json, redacted
from testbed.report.record import ScenarioRecord, StepRecord


def write_bundle(
    records: Sequence[ScenarioRecord],
    folder: Path,
    *,
    topology: Topology | None = None,
    versions: Mapping[str, str] | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> tuple[ScenarioRecord, ...]:
    """Write everything below ``folder`` (made; must not have a bundle in it) and ``folder.tar.zst`` beside it.

    ``versions`` names programs of the lab; ``extra`` adds files by relative path, such as consoles.  Secrets are
    taken out of all texts.  Returns the records with their verdicts pointing at the bundle.  Raises OSError, and
    FileExistsError where a bundle is: a rerun is a new verdict and both are kept.
    """
    if (folder / "result.json").exists():
        raise FileExistsError(f"{folder}: there is a bundle already")
    folder.mkdir(parents=True, exist_ok=True)
    records = tuple(replace(r, verdict=r.verdict.with_evidence(str(folder))) for r in records)
    for record, name in zip(records, _names(records), strict=True):
        _scenario(record, folder / name)
    files = {
        "result.json": _json([record_json(r) for r in records]),
        "junit.xml": junit_xml(records).encode(),
        "report.html": html_page(records, topology).encode(),
        "versions.json": _json(
            {"testbed": version("testbed"), "python": platform.python_version(), "system": platform.platform()}
            | dict(versions or {})
        ),
        **(extra or {}),
    }
    for path, content in files.items():
        _write(folder / path, content)
    _compress(folder)
    return records


def _names(records: Sequence[ScenarioRecord]) -> list[str]:
    names: list[str] = []
    for record in records:
        base = f"{record.scenario.name}-mutant" if record.mutant else record.scenario.name
        number = sum(n == base or n.startswith(f"{base}-") for n in names)
        names.append(f"{base}-{number + 1}" if number else base)
    return names


def _scenario(record: ScenarioRecord, folder: Path) -> None:
    plain = record.scenario.model_dump(by_alias=True, exclude_unset=True, mode="json")
    _write(folder / "scenario.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
    _write(folder / "resources.yaml", record.resources.encode())
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
    path.write_bytes(content if path.suffix == ".pcap" else redacted(content))


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
