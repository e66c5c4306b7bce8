"""A CA of somebody else's, in the folder that ``mesh.ca`` names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from testbed.pki import LabCa

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def external(
    ca: LabCa, tmp_path: Path, since: datetime = NOW, until: datetime = datetime(2036, 1, 1, tzinfo=UTC)
) -> Path:
    """A folder as an external PKI hands it out: an intermediate below ``ca``."""
    below = LabCa.create("intermediate")
    builder = x509.CertificateBuilder().subject_name(below._certificate.subject)
    builder = builder.issuer_name(ca._certificate.subject).public_key(below._certificate.public_key())
    builder = builder.serial_number(7).not_valid_before(since).not_valid_after(until)
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
