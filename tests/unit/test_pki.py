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
from external_pki import NOW, external

from testbed.errors import BadInput, LabError
from testbed.host.directories import testbed_home as home
from testbed.lab.lab import Lab
from testbed.model.reading import read_inventory
from testbed.pki import LabCa, Validity, certificate_of, needs_renewal, spiffe_id_of
from testbed.pki.external import external_ca
from testbed.workflows.authority import lab_ca, require_ca

ID = "spiffe://cluster.local/ns/default/sa/reviews"


def openssl_accepts(tmp_path: Path, roots: bytes, chain: bytes, *options: str) -> bool:
    (tmp_path / "roots").write_bytes(roots)
    (tmp_path / "leaf").write_bytes(chain)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "roots", "-untrusted", "leaf", *options, "leaf"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


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


# A CA of somebody else's

TODAY = NOW + timedelta(days=30)


def issued_by(ca: LabCa, folder: Path) -> LabCa:
    """The CA of the folder that ``ca`` issues there."""
    return LabCa.load(external(ca, folder))


def test_an_external_ca_is_taken_that_leads_to_its_root_also_by_an_intermediate(tmp_path):
    root = LabCa.create("root")
    (tmp_path / "one").mkdir()
    one = issued_by(root, tmp_path / "one")
    assert external_ca(tmp_path / "one/cacerts", TODAY).certificate == one.certificate
    (tmp_path / "two").mkdir()
    folder = external(one, tmp_path / "two")
    (folder / "root-cert.pem").write_bytes(root.roots)
    cut = folder / "cert-chain.pem"
    cut.write_bytes((folder / "ca-cert.pem").read_bytes())
    with pytest.raises(BadInput, match=r"ca-cert\.pem: leads to no root"):
        external_ca(folder, TODAY)
    pem = serialization.Encoding.PEM
    cut.write_bytes(cut.read_bytes() + one.certificate.public_bytes(pem))
    assert external_ca(folder, TODAY).above


def test_a_self_signed_ca_is_a_root_of_its_own(tmp_path):
    LabCa.create().save(tmp_path / "ca")
    assert external_ca(tmp_path / "ca", datetime.now(UTC)).above == ()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "ca-key.pem").chmod(0o640), r"ca-key.pem: others can use it \(mode 0640\)"),
        (lambda f: (f / "root-cert.pem").write_bytes(LabCa.create("other").roots), "ca-cert.pem: leads to no root"),
        (lambda f: (f / "ca-key.pem").unlink(), "no usable CA"),
        (lambda f: (f / "ca-cert.pem").write_text("no certificate"), "no usable CA"),
    ],
    ids=["key open to others", "another root", "no key", "no certificate"],
)
def test_an_external_ca_that_nobody_could_trust_is_refused_by_its_file(tmp_path, spoil, says):
    folder = external(LabCa.create("root"), tmp_path)
    spoil(folder)
    with pytest.raises(BadInput, match=says):
        external_ca(folder, TODAY)


@pytest.mark.parametrize("now", [NOW - timedelta(days=1), NOW + timedelta(days=10)])
def test_an_external_ca_that_does_not_hold_now_is_refused(tmp_path, now):
    folder = external(LabCa.create("root"), tmp_path, until=NOW + timedelta(days=9))
    with pytest.raises(BadInput, match=r"ca-cert\.pem: is valid from 2026-05-01 to 2026-05-10"):
        external_ca(folder, now)


def test_a_workloads_certificate_is_no_ca(tmp_path):
    ca = LabCa.create("root")
    leaf = ca.issue(ID)
    folder = tmp_path / "leaf"
    ca.save(folder)
    (folder / "ca-cert.pem").write_bytes(leaf.chain)
    (folder / "ca-key.pem").write_bytes(leaf.key)
    with pytest.raises(BadInput, match="is no CA's certificate"):
        external_ca(folder, datetime.now(UTC))


@pytest.fixture
def lab_with(monkeypatch, tmp_path):
    """A lab whose inventory names a folder with a CA, or none."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    text = (home() / "inventories" / "two-nodes.yaml").read_text()

    def made(folder: Path | None) -> Lab:
        file = tmp_path / "lab.yaml"
        file.write_text(text.replace("mesh:\n", f"mesh:\n  ca: {folder}\n", 1) if folder else text)
        return Lab(read_inventory(file.read_text(), str(file)), str(file))

    return made


def test_a_lab_keeps_the_ca_that_its_inventory_names_and_refuses_another(lab_with, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    one, two = (
        external(LabCa.create(n), tmp_path / n, yesterday, yesterday + timedelta(days=9)) for n in ("one", "two")
    )
    assert require_ca(lab_with(one)) is not None
    assert not lab_with(one).directories.pki.exists(), "asking makes nothing"
    assert lab_ca(lab_with(one)).certificate == LabCa.load(one).certificate
    with pytest.raises(LabError, match="the lab was made with another one"):
        lab_ca(lab_with(two))
    with pytest.raises(BadInput, match=r"lab.yaml:\d+:\d+: mesh.ca: .*missing"):
        lab_ca(lab_with(tmp_path / "missing"))


def test_a_lab_without_one_makes_its_own(lab_with):
    lab = lab_with(None)
    assert require_ca(lab) is None
    assert lab_ca(lab).certificate == LabCa.load(lab.directories.pki / "ca").certificate
