"""Secrets as Envoy reads them: one ``Secret`` a file, certificate and key in it, so that both change at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from testbed.backends.push import ProxyReport
from testbed.compiler.layout import file_name
from testbed.compiler.xdspaths import IDENTITY, ROOTS, secret_path
from testbed.model.proxy import ProxyConfiguration, XdsFile, content_hash
from testbed.model.topology import MeshWorkload
from testbed.pki import Credential, LabCa, Validity, certificate_of, dns_names_of, needs_renewal, spiffe_id_of
from testbed.resources import ResourceSet

TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
_REFERENCE = re.compile(rb"/sds/([A-Za-z0-9._-]+)\.json")
_ROOTS_SUFFIX = "-cacert"


def identity_version(chain: bytes) -> str:
    """The version of a certificate's file: it says nothing of the key."""
    return content_hash("certificate", chain)


def identity_file(credential: Credential, name: str = IDENTITY) -> XdsFile:
    """What a workload shows, or a gateway under the name of a credential."""
    secret = {
        "tls_certificate": {
            "certificate_chain": {"inline_string": credential.chain.decode()},
            "private_key": {"inline_string": credential.key.decode()},
        }
    }
    return _file(name, identity_version(credential.chain), secret)


def roots_file(roots: bytes, name: str = ROOTS) -> XdsFile:
    """Whom a proxy trusts."""
    secret = {"validation_context": {"trusted_ca": {"inline_string": roots.decode()}}}
    return _file(name, content_hash("roots", roots), secret)


def _file(name: str, version: str, secret: dict[str, Any]) -> XdsFile:
    response = {"version_info": version, "type_url": TYPE, "resources": [{"@type": TYPE, "name": name, **secret}]}
    return XdsFile(secret_path(name), TYPE, (name,), version, json.dumps(response).encode())


def chains_of(files: Iterable[XdsFile]) -> dict[str, str]:
    """Path -> the chain in it, PEM, of those that have a certificate."""
    found = {f.path: json.loads(f.content)["resources"][0] for f in files if f.type_url == TYPE and f.content}
    return {
        path: secret["tls_certificate"]["certificate_chain"]["inline_string"]
        for path, secret in found.items()
        if "tls_certificate" in secret
    }


class Secrets:
    """Decides which secrets a proxy must have, and issues those that it lacks."""

    def __init__(
        self,
        ca: LabCa,
        trust_domain: str,
        *,
        credentials: Mapping[str, Credential] | None = None,
        validity: Callable[[], Validity] = Validity.lasting,
    ) -> None:
        """``credentials``: what to show under a ``credentialName`` instead of a certificate of the lab's CA."""
        self._ca = ca
        self._trust_domain = trust_domain
        self._given = credentials or {}
        self._validity = validity

    def files(
        self,
        workload: MeshWorkload,
        configuration: ProxyConfiguration,
        report: ProxyReport,
        resources: ResourceSet,
    ) -> Iterator[XdsFile]:
        """The identity, the roots, and every other secret that the proxy's files point at.

        A certificate that the node has and that is still good comes without content, so it stays.
        """
        yield roots_file(self._ca.roots)
        identity = workload.spiffe_id(self._trust_domain)
        yield self._kept(IDENTITY, report, identity, ()) or identity_file(self._issue(identity, ()))
        hosts, roots = _server_hosts(resources), _root_names(resources)
        for name in sorted(referenced(configuration) - {IDENTITY, ROOTS}):
            if name in self._given:
                yield identity_file(self._given[name], name)
            elif name in roots or name.endswith(_ROOTS_SUFFIX):
                yield roots_file(self._ca.roots, name)
            else:  # a gateway shows it for its hosts; anybody else as a client
                names = hosts.get(name, ())
                yield self._kept(name, report, identity, names) or identity_file(self._issue(identity, names), name)

    def _issue(self, identity: str, hosts: tuple[str, ...]) -> Credential:
        return (
            self._ca.issue_server(hosts, self._validity()) if hosts else self._ca.issue(identity, self._validity())
        )

    def _kept(self, name: str, report: ProxyReport, identity: str, hosts: tuple[str, ...]) -> XdsFile | None:
        """The file that the node has, when there is no reason to issue another."""
        path = secret_path(name)
        chain = report.certificates.get(path, "").encode()
        if not chain or report.versions.get(path) != identity_version(chain):
            return None
        certificate = certificate_of(chain)
        right = dns_names_of(certificate) == hosts if hosts else spiffe_id_of(certificate) == identity
        if not right or not self._ca.has_issued(certificate) or needs_renewal(certificate, datetime.now(UTC)):
            return None
        return XdsFile(path, TYPE, (name,), report.versions[path], b"")


def referenced(configuration: ProxyConfiguration) -> set[str]:
    """Names of all secrets that the proxy's files point at."""
    found: set[str] = set()
    usual = {IDENTITY.encode(), ROOTS.encode()}
    for file in configuration.files.values():
        unknown = set(_REFERENCE.findall(file.content)) - usual
        if unknown:
            named = dict(_named(json.loads(file.content)))
            found.update(named.get(n.decode(), n.decode()) for n in unknown)
    return found


def _named(value: object) -> Iterator[tuple[str, str]]:
    """File name and name of every secret that a document points at."""
    if isinstance(value, dict):
        name = value.get("name")
        if isinstance(name, str) and ("sds_config" in value or "sdsConfig" in value):
            yield file_name(name), name
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _named(item)


def _server_hosts(resources: ResourceSet) -> dict[str, tuple[str, ...]]:
    """Credential name -> the hosts of all servers that show it, without the namespaces that may lead them."""
    hosts: dict[str, dict[str, None]] = {}
    for gateway in resources.gateways:
        for server in gateway.spec.servers:
            names = (server.tls.credential_name, *server.tls.credential_names) if server.tls else ()
            for name in filter(None, names):
                hosts.setdefault(name, {}).update(dict.fromkeys(h.rpartition("/")[2] for h in server.hosts))
    return {name: tuple(found) for name, found in hosts.items()}


def _root_names(resources: ResourceSet) -> set[str]:
    servers = (s for g in resources.gateways for s in g.spec.servers)
    return {s.tls.ca_cert_credential_name for s in servers if s.tls}
