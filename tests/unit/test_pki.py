"""The lab CA: what it issues, where its key lies, when a certificate is renewed."""

from __future__ import annotations

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from testbed.errors import BadInput
from testbed.pki import LabCa, Validity, certificate_of, needs_renewal, spiffe_id_of

ID = "spiffe://cluster.local/ns/default/sa/reviews"
NOW = datetime(2026, 5, 1, tzinfo=UTC)


def openssl_accepts(tmp_path: Path, roots: bytes, chain: bytes, *options: str) -> bool:
    (tmp_path / "roots").write_bytes(roots)
    (tmp_path / "leaf").write_bytes(chain)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "roots", "-untrusted", "leaf", *options, "leaf"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def external(ca: LabCa, tmp_path: Path) -> Path:
    """A folder as an external PKI hands it out: an intermediate below ``ca``."""
    below = LabCa.create("intermediate")
    builder = x509.CertificateBuilder().subject_name(below._certificate.subject)
    builder = builder.issuer_name(ca._certificate.subject).public_key(below._certificate.public_key())
    builder = builder.serial_number(7).not_valid_before(NOW).not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
    for e in below._certificate.extensions:
        builder = builder.add_extension(e.value, e.critical)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca._certificate.public_key()), critical=False
    )
    certificate = builder.sign(ca._key, below._certificate.signature_hash_algorithm)
    below.save(tmp_path / "cacerts")
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "cacerts/ca-cert.pem").write_bytes(pem)
    (tmp_path / "cacerts/cert-chain.pem").write_bytes(pem + ca.roots)
    (tmp_path / "cacerts/root-cert.pem").write_bytes(ca.roots)
    return tmp_path / "cacerts"


def test_a_workloads_certificate_names_its_identity_and_nothing_else():
    certificate = LabCa.create().issue(ID).certificate
    assert spiffe_id_of(certificate) == ID
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert len(list(names.value)) == 1
    assert not list(certificate.subject)


def test_openssl_accepts_what_the_ca_issues_and_nobody_elses(tmp_path):
    ours, theirs = LabCa.create(), LabCa.create()
    assert openssl_accepts(tmp_path, ours.roots, ours.issue(ID).chain)
    assert openssl_accepts(tmp_path, ours.roots, ours.issue_server(["*.example.com", "10.0.0.1"]).chain)
    assert not openssl_accepts(tmp_path, ours.roots, theirs.issue(ID).chain)
    assert ours.has_issued(ours.issue(ID).certificate)
    assert not ours.has_issued(theirs.issue(ID).certificate)


def test_an_intermediate_of_an_external_pki_is_sent_along_and_its_root_is_not(tmp_path):
    root = LabCa.create("company")
    ca = LabCa.load(external(root, tmp_path))
    credential = ca.issue(ID)
    assert len(x509.load_pem_x509_certificates(credential.chain)) == 2
    assert ca.roots == root.roots
    assert openssl_accepts(tmp_path, root.roots, credential.chain)
    assert ca.has_issued(credential.certificate)


def test_a_self_signed_root_is_not_sent():
    assert LabCa.create().issue(ID).chain.count(b"BEGIN CERTIFICATE") == 1


def test_a_certificate_lasts_30_days_and_is_backdated_against_lagging_clocks():
    certificate = LabCa.create().issue(ID, Validity.lasting(now=NOW)).certificate
    assert certificate.not_valid_after_utc - NOW == timedelta(days=30)
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("age", "renewed"),
    [(timedelta(hours=-2), True), (timedelta(0), False), (timedelta(days=19), False), (timedelta(days=21), True)],
)
def test_a_certificate_is_renewed_in_the_last_third_of_its_life_or_before_it_began(age, renewed):
    certificate = LabCa.create().issue(ID, Validity.lasting(now=NOW)).certificate
    assert needs_renewal(certificate, NOW + age) is renewed


def test_an_expired_certificate_can_be_issued_for_faults(tmp_path):
    ca = LabCa.create()
    past = Validity(NOW - timedelta(days=2), NOW - timedelta(days=1))
    chain = ca.issue(ID, past).chain
    assert needs_renewal(certificate_of(chain), NOW)
    assert not openssl_accepts(tmp_path, ca.roots, chain)


def test_the_key_is_readable_by_its_owner_only_and_shown_nowhere(tmp_path):
    ca = LabCa.open(tmp_path / "lab/pki", "two-nodes")
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "lab/pki").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "lab/pki").stat().st_mode) == 0o700
    credential = ca.issue(ID)
    key = credential.key.decode().splitlines()[1]
    assert key not in repr(credential) + repr(ca)


def test_two_that_create_at_once_use_the_same_ca(tmp_path):
    opened: list[LabCa] = []
    threads = [Thread(target=lambda: opened.append(LabCa.open(tmp_path / "pki"))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len({ca.roots for ca in opened}) == 1
    assert len(opened) == 8
    assert [p.name for p in tmp_path.iterdir()] == ["pki"]


def test_a_key_of_another_ca_is_refused(tmp_path):
    LabCa.open(tmp_path / "a")
    LabCa.open(tmp_path / "b")
    (tmp_path / "a/ca-key.pem").write_bytes((tmp_path / "b/ca-key.pem").read_bytes())
    with pytest.raises(BadInput, match="does not belong"):
        LabCa.load(tmp_path / "a")
    (tmp_path / "a/ca-key.pem").write_text("nonsense")
    with pytest.raises(BadInput, match="no usable CA"):
        LabCa.load(tmp_path / "a")
