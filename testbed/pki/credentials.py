"""A leaf certificate with its key, and what can be read from a certificate.  Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes


@dataclass(frozen=True)
class Credential:
    """A certificate chain (leaf first, without the root) and the leaf's private key, both PEM."""

    chain: bytes
    key: bytes = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return certificate_of(self.chain)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the leaf, 16 hexadecimal digits: says which certificate it is and nothing of the key."""
        return fingerprint(self.certificate)


def certificate_of(pem: bytes) -> x509.Certificate:
    """The first certificate in ``pem``; :class:`ValueError` when there is none."""
    return x509.load_pem_x509_certificates(pem)[0]


def fingerprint(certificate: x509.Certificate) -> str:
    """The first 16 hexadecimal digits of the certificate's SHA-256 fingerprint."""
    return certificate.fingerprint(hashes.SHA256()).hex()[:16]


def spiffe_id_of(certificate: x509.Certificate) -> str:
    """The SPIFFE identity in the URI name, empty when it has none (X.509-SVID, section 2: exactly one URI)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else ""


def dns_names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names and addresses that it is good for, in order."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(n.value) for n in names if isinstance(n, x509.DNSName | x509.IPAddress))


def needs_renewal(certificate: x509.Certificate, now: datetime, *, left: float = 1 / 3) -> bool:
    """Whether less than the share ``left`` of the certificate's life remains at ``now`` (timezone-aware).

    One that is not valid yet needs renewal too: a restored machine's clock may stand before its issue.
    """
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now < start or end - now < (end - start) * left
