"""The ledger has every published field, and its page is current."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

import ledger as marks

from testbed.resources.ledger import entries, page
from testbed.resources.refused import REFUSED_FIELDS

API = json.loads((files("testbed.resources") / "api_fields.json").read_text())
PAGE = Path(__file__).parents[2] / "docs/reference/coverage.md"


def test_every_published_field_is_supported_or_refused_with_a_message():
    assert [e.name for e in entries(API) if e.gap] == []
    assert len(entries(API)) > 800


def test_every_entry_of_the_refused_table_is_a_published_field():
    used = {e.refused for e in entries(API)} | {why for e in entries(API) for _, why in e.refused_values}
    assert [key for key, why in REFUSED_FIELDS.items() if why not in used] == []


def test_only_what_the_table_of_kinds_leaves_open_is_refused():
    """Refusing a field counts as a gap unless the design says so: this list grows only with a decision."""
    istio = {key for key in REFUSED_FIELDS if not key.startswith("k8s.")}
    assert istio == {
        "TrafficPolicy.tunnel",
        "TrafficPolicy.proxyProtocol",
        "Telemetry.tracing",
        "Telemetry.metrics",
        "ServerTLSSettings.mode=AUTO_PASSTHROUGH",
        "FileTLSSettings.mode=AUTO_PASSTHROUGH",
        "ServiceEntry.resolution=DYNAMIC_DNS",
        # Istio's own webhook refuses these
        "Delay.exponentialDelay",
        "Abort.http2Error",
        "Port.targetPort",
        "SidecarPort.targetPort",
        "PolicyTargetReference.namespace",
        *(f"FileTLSSettings.{name}" for name in ("subjectAltNames", "httpsRedirect", "credentialName")),
        *(f"FileTLSSettings.{name}" for name in ("credentialNames", "tlsCertificates", "caCertCredentialName")),
        # istiod passes these over without a word
        "Server.defaultEndpoint",
        "TLSCertificate.caCertificates",
    }


def test_the_coverage_page_is_current():
    text = page(API, marks.proofs(e.name for e in entries(API)))
    if os.environ.get("TESTBED_WRITE"):
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "run this test with TESTBED_WRITE=1"
