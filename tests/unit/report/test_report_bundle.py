"""The bundle: complete, free of secrets, and readable by programs and people."""

import io
import json
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
import zstandard

from testbed.model.scenario import read_scenario
from testbed.model.verdict import failed, inconclusive, not_applicable, passed
from testbed.report import Arrival, ScenarioRecord, StepRecord, TestPath, html_page, junit_xml, write_bundle
from testbed.report.plain import redacted
from testbed.report.record import MachineRecord
from testbed.traffic import Request, Sample, TrafficSpec

SCENARIO = read_scenario(
    "name: half\ndescription: d <b>\npromise: half & half\n"
    "when: {from: client, service: reviews, timeout: 2s}\nexpect: {status: 200}\n",
    "half.yaml",
)


def record(verdict, **changes) -> ScenarioRecord:
    spec = TrafficSpec("ab12", "240.240.1.1", 9080, "reviews:9080", (Request(),), 2)
    samples = tuple(
        Sample(i, 0, 200, i / 10, 0.01 * (i + 1), 1, {"x-instance": "reviews-v1", "x-version": "v1"}, "", "hello")
        for i in range(2)
    )
    path = TestPath("v1", 0.5, 0.4, 0.6, 6.9, -7.6, ((1, 0.2, -0.2), (2, 0.4, -0.4)))
    step = StepRecord(
        "", verdict, spec, "client-v1", samples, arrivals=(Arrival("ab12-0", "reviews-v1", 1, 200),), paths=(path,),
        resources="kind: VirtualService\n", attachments={"access/client-v1.log": b'{"authorization": "Bearer eyJabc.def.ghi"}\n'},
    )  # fmt: skip
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    fields = {"seconds": 1.5, "steps": (step,), **changes}
    return ScenarioRecord(SCENARIO, verdict, started, **fields)


RECORDS = [
    record(v) for v in (passed("fine", alpha=0.001), failed("no\nwhy"), inconclusive("?"), not_applicable("n"))
]


def test_the_bundle_is_a_folder_and_the_same_compressed(tmp_path: Path):
    written = write_bundle(RECORDS, tmp_path / "run")
    assert written[0].verdict.evidence == str(tmp_path / "run")
    names = {str(p.relative_to(tmp_path)) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert {"run/result.json", "run/junit.xml", "run/report.html", "run/half/1/samples.jsonl"} <= names
    assert {f"run/half{n}/scenario.yaml" for n in ("", "-2", "-3", "-4")} <= names
    stream = zstandard.ZstdDecompressor().stream_reader((tmp_path / "run.tar.zst").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(stream.read())) as tar:
        assert {m.name for m in tar.getmembers() if m.isfile()} == names
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert [r["verdict"]["outcome"] for r in result] == ["PASS", "FAIL", "INCONCLUSIVE", "NOT_APPLICABLE"]
    assert json.loads((tmp_path / "run/half/1/samples.jsonl").read_text().splitlines()[1])["id"] == "ab12-1"


def test_versions_revisions_and_machines_are_in_the_bundle(tmp_path: Path):
    made = record(passed("fine"))
    step = replace(made.steps[0], revisions={"client-v1": "ab12"}, machines=(MachineRecord("app-1", 0.25, 900, 2),))
    write_bundle([replace(made, steps=(step,))], tmp_path / "run", versions={"qemu": "7.2.1"})
    versions = json.loads((tmp_path / "run/versions.json").read_text())
    assert versions["qemu"] == "7.2.1"
    assert {"testbed", "python", "system"} <= versions.keys()
    lab = json.loads((tmp_path / "run/half/1/lab.json").read_text())
    assert lab["revisions"] == {"client-v1": "ab12"}
    assert lab["machines"] == [{"node": "app-1", "waited": 0.25, "segments": 900, "sent_again": 2, "needless": 0}]


def test_a_bundle_is_never_written_over(tmp_path: Path):
    write_bundle(RECORDS[:1], tmp_path / "run")
    with pytest.raises(FileExistsError):
        write_bundle(RECORDS[:1], tmp_path / "run")


@pytest.mark.parametrize(
    "secret",
    [
        b"-----BEGIN PRIVATE KEY-----\nMIIEvQ\nabc\n-----END PRIVATE KEY-----",
        b"-----BEGIN EC PRIVATE KEY-----\nMIIEvQ\n-----END EC PRIVATE KEY-----",
        b'{"private_key": {"inline_bytes": "MIIEvQ=="}}',
        b"authorization: Bearer MIIEvQ.x.y",
        b'"authorization": "Basic MIIEvQ=="',
        b'["authorization", "Bearer eyJMIIEvQ.abc"]',
        b'["authorization", "Basic MIIEvQ=="]',
        b'["cookie", "session=MIIEvQ; theme=dark"]',
        b'{"x-api-key": "MIIEvQ"}',
        b"x-api-key: MIIEvQ",
        b'["x-api-key", "MIIEvQ"]',
        b"password=MIIEvQ",
        b"cookie: session=MIIEvQ; theme=dark",
        b'{"set-cookie": "session=MIIEvQ; Path=/"}',
    ],
)
def test_secrets_are_taken_out(secret):
    assert b"MIIEvQ" in secret
    assert b"MIIEvQ" not in redacted(b"before " + secret + b" after")
    assert redacted(b"before " + secret + b" after").startswith(b"before ")


def test_words_stay():
    text = b"a secret, and a password: two of them"
    assert redacted(b"a secret, and secretName: x") == b"a secret, and secretName: x"
    assert redacted(text).startswith(b"a secret, and a password: [removed]")


def test_no_secret_is_in_the_bundle(tmp_path: Path):
    write_bundle(RECORDS[:1], tmp_path / "run", extra={"consoles/app-1.log": b"Bearer eyJabc.def.ghi"})
    for file in (tmp_path / "run").rglob("*"):
        assert file.is_dir() or b"eyJabc" not in file.read_bytes()


def test_a_captures_secrets_are_masked_at_their_length(tmp_path: Path):
    """The packets around them stay readable: what a record's length counts is still there."""
    packet = b"\x00\x10GET / HTTP/1.1\r\nauthorization: Bearer eyJabc.def.ghi\r\ncookie: id=MIIEvQ\r\n\r\n\xff"
    step = replace(record(passed("fine")).steps[0], attachments={"capture.pcap": packet})
    write_bundle([replace(record(passed("fine")), steps=(step,))], tmp_path / "run")
    kept = (tmp_path / "run/half/1/capture.pcap").read_bytes()
    assert len(kept) == len(packet)
    assert b"eyJabc" not in kept and b"MIIEvQ" not in kept
    assert kept.startswith(b"\x00\x10GET / HTTP/1.1\r\nauthorization: Bearer xxx")


def test_junit_tells_a_broken_mesh_from_a_broken_lab():
    suite = fromstring(junit_xml(RECORDS))
    assert suite.attrib["tests"] == "4"
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["error"], ["skipped"]]
    fromstring(junit_xml([record(failed("control \x00 character"))]))


class Strict(HTMLParser):
    """Collects what would make the page need something else, and whether tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.loads += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("#")]
        self.loads += [tag] if tag == "script" else []
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_escapes_what_it_shows():
    page = html_page(RECORDS)
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert parser.loads == []
    assert "half &amp; half" in page
    assert "d &lt;b&gt;" in page
    assert page.count("<polyline") == 8
