"""The lab's certificate authority: one per lab, random, kept in the lab's own directory."""

from testbed.pki.authority import LabCa, Validity
from testbed.pki.credentials import Credential, certificate_of, dns_names_of, needs_renewal, spiffe_id_of

__all__ = ["Credential", "LabCa", "Validity", "certificate_of", "dns_names_of", "needs_renewal", "spiffe_id_of"]
