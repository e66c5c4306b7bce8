"""TLS that a proxy terminates: mutual TLS of the mesh, and a gateway's own."""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext

from testbed.compiler.protobuf import boolean, packed
from testbed.compiler.upstreamtls import TLS, combined
from testbed.compiler.xdspaths import IDENTITY, ROOTS, secret
from testbed.resources.gateway import ServerTLSMode, ServerTLSSettings, TLSProtocol

CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
)
"""Istio's, for TLS 1.2."""

_VERSIONS = {
    TLSProtocol.TLS_AUTO: TlsParameters.TLS_AUTO,
    TLSProtocol.TLSV1_0: TlsParameters.TLSv1_0,
    TLSProtocol.TLSV1_1: TlsParameters.TLSv1_1,
    TLSProtocol.TLSV1_2: TlsParameters.TLSv1_2,
    TLSProtocol.TLSV1_3: TlsParameters.TLSv1_3,
}


def _socket(context: DownstreamTlsContext) -> TransportSocket:
    return TransportSocket(name=TLS, typed_config=packed(context))


def mesh_tls(trust_domain: str) -> TransportSocket:
    """Mutual TLS with any identity of the trust domain."""
    context = DownstreamTlsContext(require_client_certificate=boolean(True))
    common = context.common_tls_context
    common.alpn_protocols.extend(["h2", "http/1.1"])
    common.tls_params.cipher_suites.extend(CIPHERS)
    common.tls_params.tls_minimum_protocol_version = TlsParameters.TLSv1_2
    common.tls_params.tls_maximum_protocol_version = TlsParameters.TLSv1_3
    common.tls_certificate_sds_secret_configs.append(secret(IDENTITY))
    combined(common, secret(ROOTS), [f"spiffe://{trust_domain}/*"])
    return _socket(context)


def server_tls(settings: ServerTLSSettings) -> TransportSocket:
    """A gateway server's TLS.  ``credentialName`` and its ``-cacert`` are secrets in files of their names."""
    verifies = settings.mode in (
        ServerTLSMode.MUTUAL,
        ServerTLSMode.ISTIO_MUTUAL,
        ServerTLSMode.OPTIONAL_MUTUAL,
    )
    context = DownstreamTlsContext(
        # OPTIONAL_MUTUAL: a certificate is asked for, and checked if one comes
        require_client_certificate=boolean(verifies and settings.mode is not ServerTLSMode.OPTIONAL_MUTUAL)
    )
    common = context.common_tls_context
    # offered whatever the server's protocol is, as in istiod
    common.alpn_protocols.extend(["h2", "http/1.1"])
    _certificates(common, settings)
    if verifies:
        _client_roots(common, settings)
    parameters = common.tls_params
    if settings.cipher_suites:
        parameters.cipher_suites.extend(dict.fromkeys(settings.cipher_suites))
    if settings.min_protocol_version is TLSProtocol.TLS_AUTO:
        parameters.tls_minimum_protocol_version = TlsParameters.TLSv1_2
    else:
        parameters.tls_minimum_protocol_version = _VERSIONS[settings.min_protocol_version]
    parameters.tls_maximum_protocol_version = _VERSIONS[settings.max_protocol_version]
    return _socket(context)


def _certificates(common: CommonTlsContext, settings: ServerTLSSettings) -> None:
    names = settings.credential_names or ((settings.credential_name,) if settings.credential_name else ())
    if settings.mode is ServerTLSMode.ISTIO_MUTUAL:
        common.tls_certificate_sds_secret_configs.append(secret(IDENTITY))
    elif names:
        common.tls_certificate_sds_secret_configs.extend(secret(n) for n in names)
    else:
        pairs = [(c.server_certificate, c.private_key) for c in settings.tls_certificates]
        for chain, key in pairs or [(settings.server_certificate, settings.private_key)]:
            certificate = common.tls_certificates.add()
            certificate.certificate_chain.filename = chain
            certificate.private_key.filename = key


def _client_roots(common: CommonTlsContext, settings: ServerTLSSettings) -> None:
    names = settings.subject_alt_names
    if settings.mode is ServerTLSMode.ISTIO_MUTUAL:
        combined(common, secret(ROOTS), names)
        validation = common.combined_validation_context.default_validation_context
    elif settings.credential_name or settings.credential_names or settings.ca_cert_credential_name:
        first = (settings.credential_name, *settings.credential_names)
        name = settings.ca_cert_credential_name or f"{next(n for n in first if n)}-cacert"
        combined(common, secret(name), names)
        validation = common.combined_validation_context.default_validation_context
    else:
        combined(common, secret(ROOTS), names)
        validation = common.validation_context
        validation.CopyFrom(common.combined_validation_context.default_validation_context)
        validation.trusted_ca.filename = settings.ca_certificates
    if settings.ca_crl:
        validation.crl.filename = settings.ca_crl
    validation.verify_certificate_spki.extend(settings.verify_certificate_spki)
    validation.verify_certificate_hash.extend(settings.verify_certificate_hash)
