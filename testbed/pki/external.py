"""A CA that somebody else's PKI has issued for the lab: looked at before anything is signed with it."""

from __future__ import annotations

import stat
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from testbed.errors import bad_input
from testbed.pki.authority import LabCa


def external_ca(folder: Path, now: datetime) -> LabCa:
    """The CA in ``folder``, called as in Istio's task "Plug in CA Certificates".

    Raises BadInput, naming the file, for what istiod or a peer would refuse later and not as plainly: a key that
    others can read, a certificate that is no CA's, has run out by ``now`` or leads to no root of ``root-cert.pem``.
    """
    ca = LabCa.load(folder)
    certificate, key = folder / "ca-cert.pem", folder / "ca-key.pem"
    if mode := stat.S_IMODE(key.stat().st_mode) & 0o077:
        raise bad_input(str(key), f"others can use it (mode 0{mode | 0o600:o})", f"chmod 600 {key}")
    if not _is_authority(ca.certificate):
        raise bad_input(str(certificate), "is no CA's certificate", "give one with CA:TRUE, an intermediate's")
    begins, ends = ca.certificate.not_valid_before_utc, ca.certificate.not_valid_after_utc
    if not begins <= now < ends:
        raise bad_input(str(certificate), f"is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}", "have it renewed")
    if not _leads_to_root(ca):
        cause = "leads to no root of root-cert.pem by what cert-chain.pem has"
        raise bad_input(str(certificate), cause, "put the intermediates between them into cert-chain.pem")
    return ca


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _leads_to_root(ca: LabCa) -> bool:
    roots = x509.load_pem_x509_certificates(ca.roots)
    last, left = ca.certificate, list(ca.above)
    while last not in roots:
        if any(_issued(last, root) for root in roots):
            return True
        above = next((c for c in left if _issued(last, c)), None)
        if above is None:
            return False
        left.remove(above)
        last = above
    return True


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
