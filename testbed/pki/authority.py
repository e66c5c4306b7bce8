"""The lab CA: a self-signed root, or an intermediate that an external PKI has issued.

File names are those of Istio's plug-in CA certificates (``cacerts``): ``ca-cert.pem``, ``ca-key.pem``,
``cert-chain.pem``, ``root-cert.pem``; so one folder serves both backends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from testbed.errors import bad_input
from testbed.pki.credentials import Credential

_FILES = ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem")
_ROOT_LIFE = timedelta(days=3650)
_LEAF_LIFE = timedelta(days=30)
_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Validity:
    """From when until when a certificate holds; both timezone-aware."""

    start: datetime
    end: datetime

    @classmethod
    def lasting(cls, life: timedelta = _LEAF_LIFE, now: datetime | None = None) -> Validity:
        """``life`` from now, backdated by an hour: nodes' clocks lag after a restore."""
        now = now or datetime.now(UTC)
        return cls(now - _SKEW, now + life)


class LabCa:
    """Issues what the lab's workloads and gateways show.  The key stays in this object and its 0600 file."""

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
        chain: Sequence[x509.Certificate],
        roots: bytes,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._chain = tuple(chain)
        self.roots = roots
        """What a peer has to trust, PEM."""

    def __repr__(self) -> str:
        return f"LabCa({self._certificate.subject.rfc4514_string()!r})"

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that it signs with."""
        return self._certificate

    @property
    def above(self) -> tuple[x509.Certificate, ...]:
        """Certificates between it and a root, without its own."""
        return tuple(c for c in self._chain if c != self._certificate)

    @classmethod
    def create(cls, name: str = "testbed") -> LabCa:
        """A new self-signed root with a random key, in memory only."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "testbed"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{name} root"),
            ]
        )
        builder = _builder(subject, subject, key.public_key(), Validity.lasting(_ROOT_LIFE))
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key, (), certificate.public_bytes(serialization.Encoding.PEM))

    @classmethod
    def open(cls, directory: Path, name: str = "testbed") -> LabCa:
        """The CA kept in ``directory``, created there on first use.

        Creation is atomic: of two processes that create at once, one wins and both use its CA.
        """
        if not directory.exists():
            cls.create(name).save(directory)
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> LabCa:
        """The CA in ``directory``, ours or an external PKI's; BadInput when a file can't be used."""
        certificate_file, key_file, chain_file, root_file = (directory / name for name in _FILES)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            roots = root_file.read_bytes()
            trusted = x509.load_pem_x509_certificates(roots)
            chain_pem = chain_file.read_bytes() if chain_file.exists() else b""
            chain = x509.load_pem_x509_certificates(chain_pem) if chain_pem.strip() else []
        except (OSError, ValueError, TypeError) as e:
            raise bad_input(str(directory), f"no usable CA: {e}", f"it needs {', '.join(_FILES)}") from e
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise bad_input(str(key_file), "the key is of another kind than EC or RSA")
        if key.public_key() != certificate.public_key():
            raise bad_input(str(key_file), "the key does not belong to ca-cert.pem")
        # cert-chain.pem starts with the CA's own certificate in Istio's layout; trust anchors are not sent.
        above = [c for c in chain if c != certificate and c not in trusted]
        sent = above if certificate in trusted else [certificate, *above]
        return cls(certificate, key, sent, roots)

    def as_files(self) -> dict[str, bytes]:
        """Its files by name: Istio's layout, as :meth:`load` reads it."""
        pem = serialization.Encoding.PEM
        contents = (
            self._certificate.public_bytes(pem),
            self._key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            b"".join(c.public_bytes(pem) for c in self._chain),
            self.roots,
        )
        return dict(zip(_FILES, contents, strict=True))

    def save(self, directory: Path) -> None:
        """Write the CA to ``directory``, which appears as a whole; one that exists already is left as it is."""
        directory.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))  # 0700
        try:
            for name, content in self.as_files().items():
                with os.fdopen(os.open(made / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(content)
            made.rename(directory)
        except OSError:
            if not directory.exists():
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def issue(self, spiffe_id: str, validity: Validity | None = None) -> Credential:
        """A certificate for one identity, 30 days unless ``validity`` says otherwise (also the past: for faults).

        The URI name is the only name, critical since the subject is empty (RFC 5280 4.2.1.6, X.509-SVID 2).
        """
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
        return self._issue(x509.Name([]), names, validity)

    def issue_server(self, hosts: Sequence[str], validity: Validity | None = None) -> Credential:
        """A certificate that a gateway shows for ``hosts`` (DNS names, wildcards, addresses)."""
        names = x509.SubjectAlternativeName([_host(h) for h in hosts])
        # RFC 5280 ub-common-name: 64 characters; clients read the alternative names.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
        return self._issue(subject, names, validity)

    def has_issued(self, certificate: x509.Certificate) -> bool:
        """Whether this CA signed ``certificate``."""
        try:
            certificate.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _issue(
        self, subject: x509.Name, names: x509.SubjectAlternativeName, validity: Validity | None
    ) -> Credential:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, self._certificate.subject, key.public_key(), validity or Validity.lasting())
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(usages, critical=False)
            .add_extension(names, critical=not list(subject))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._certificate.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        return Credential(
            chain=b"".join(c.public_bytes(pem) for c in (certificate, *self._chain)),
            key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: Validity
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.start)
        .not_valid_after(validity.end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
