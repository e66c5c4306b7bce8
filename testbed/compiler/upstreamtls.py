"""How a proxy begins a connection to a destination: plain, TLS, or the mesh's mutual TLS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from testbed.compiler.protobuf import packed, struct
from testbed.compiler.xdspaths import IDENTITY, ROOTS, secret
from testbed.resources.destination_rule import ClientTLSMode, ClientTLSSettings

TLS = "envoy.transport_sockets.tls"
RAW = "envoy.transport_sockets.raw_buffer"
TLS_MODE = "tlsMode"
"""Key of the endpoint metadata (under ``envoy.transport_socket_match``) that says ``istio`` for the mesh's TLS."""

SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
MESH_ALPN = "istio"
"""What mesh clients offer, so that a PERMISSIVE port tells the mesh's TLS from the application's own.

Istio's proxy replaces it for HTTP by ``istio-http/1.1`` and ``istio-h2``; here that is done where the receiving
port doesn't say what it is (``connections.offer_http``).
"""
MESH_ALPNS = ("istio-peer-exchange", "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2")
"""All that istiod matches on as the mesh's own."""


@dataclass(frozen=True)
class Peer:
    """What is known of who answers in the mesh."""

    identities: tuple[str, ...]
    sni: str
    external: bool
    disabled: bool
    """Whether the service's namespace, or the mesh, takes plaintext only."""


def raw_socket() -> TransportSocket:
    """No TLS."""
    return TransportSocket(name=RAW, typed_config=packed(RawBuffer()))


def _socket(context: UpstreamTlsContext) -> TransportSocket:
    return TransportSocket(name=TLS, typed_config=packed(context))


def _context(sni: str) -> UpstreamTlsContext:
    context = UpstreamTlsContext(sni=sni)
    parameters = context.common_tls_context.tls_params
    parameters.tls_minimum_protocol_version = TlsParameters.TLSv1_2
    parameters.tls_maximum_protocol_version = TlsParameters.TLSv1_3
    return context


def apply_tls(
    cluster: Cluster,
    options: HttpProtocolOptions,
    settings: ClientTLSSettings | None,
    peer: Peer,
    *,
    sidecar: bool,
    selected: bool,
) -> None:
    """Give the cluster its transport sockets.

    Without settings, mesh TLS is automatic: endpoints marked ``tlsMode: istio`` get it, others plaintext.
    ``selected``: the rule has a workload selector, without which istiod lets no sidecar use a credential.
    """
    original_destination = cluster.type == Cluster.ORIGINAL_DST
    if settings is None:
        if peer.external or peer.disabled:
            return
        socket = _socket(_mesh_context(cluster, options, peer.identities, peer.sni))
        if original_destination:
            cluster.transport_socket.CopyFrom(socket)
            return
        match = cluster.transport_socket_matches.add(name="tlsMode-istio", transport_socket=socket)
        match.match.CopyFrom(struct({TLS_MODE: "istio"}))
        cluster.transport_socket_matches.add(
            name="tlsMode-disabled", transport_socket=raw_socket()
        ).match.SetInParent()
        return
    if settings.mode is ClientTLSMode.ISTIO_MUTUAL:
        names = settings.subject_alt_names or peer.identities
        context = _mesh_context(cluster, options, names, settings.sni or peer.sni)
        cluster.transport_socket.CopyFrom(_socket(context))
    elif settings.mode is not ClientTLSMode.DISABLE:
        if settings.credential_name and sidecar and not selected:
            return  # istiod sends plaintext then, and says so only in its documentation
        context = _simple_context(cluster, options, settings, peer)
        cluster.transport_socket.CopyFrom(_socket(context))


def _is_http2(options: HttpProtocolOptions) -> bool:
    return bool(options.explicit_http_config.HasField("http2_protocol_options"))


_ANY_KIND = (SubjectAltNameMatcher.DNS, SubjectAltNameMatcher.URI, SubjectAltNameMatcher.IP_ADDRESS)


def exact_names(names: Sequence[str]) -> list[StringMatcher]:
    """Names that a certificate must have one of; a trailing ``*`` is a prefix, as istiod reads it."""
    return [StringMatcher(prefix=n[:-1]) if n.endswith("*") else StringMatcher(exact=n) for n in names]


def _typed_names(names: Sequence[str]) -> CertificateValidationContext:
    """The deprecated untyped matcher looked at every kind of name; the typed one has to be told each."""
    validation = CertificateValidationContext()
    for name, matcher in zip(names, exact_names(names), strict=True):
        kinds = (SubjectAltNameMatcher.URI,) if "://" in name else _ANY_KIND
        for kind in kinds:
            validation.match_typed_subject_alt_names.add(san_type=kind, matcher=matcher)
    return validation


def combined(context: CommonTlsContext, roots: SdsSecretConfig, names: Sequence[str]) -> None:
    """Trust ``roots`` and, of what they signed, ``names`` (all if none is given)."""
    validation = context.combined_validation_context
    validation.default_validation_context.CopyFrom(_typed_names(names))
    validation.validation_context_sds_secret_config.CopyFrom(roots)


def _mesh_context(
    cluster: Cluster, options: HttpProtocolOptions, names: Sequence[str], sni: str
) -> UpstreamTlsContext:
    context = _context(sni or cluster.name)
    common = context.common_tls_context
    common.tls_certificate_sds_secret_configs.append(secret(IDENTITY))
    combined(common, secret(ROOTS), names)
    common.alpn_protocols.extend([MESH_ALPN, "h2"] if _is_http2(options) else [MESH_ALPN])
    return context


def _simple_context(
    cluster: Cluster, options: HttpProtocolOptions, settings: ClientTLSSettings, peer: Peer
) -> UpstreamTlsContext:
    context = _context(settings.sni)
    common = context.common_tls_context
    names = settings.subject_alt_names or (peer.identities if peer.external else ())
    trusting = not settings.insecure_skip_verify
    if not settings.sni:
        options.upstream_http_protocol_options.auto_sni = True
        if not settings.subject_alt_names and trusting:
            options.upstream_http_protocol_options.auto_san_validation = True
    mutual = settings.mode is ClientTLSMode.MUTUAL
    if settings.credential_name:
        if mutual:
            common.tls_certificate_sds_secret_configs.append(secret(settings.credential_name))
        if trusting:
            combined(common, secret(f"{settings.credential_name}-cacert"), names)
    else:
        if mutual:
            certificate = common.tls_certificates.add()
            certificate.certificate_chain.filename = settings.client_certificate
            certificate.private_key.filename = settings.private_key
        if trusting:
            validation = common.validation_context
            validation.CopyFrom(_typed_names(names))
            given = settings.ca_certificates
            validation.trusted_ca.filename = SYSTEM_ROOTS if given in ("", "system") else given
            if settings.ca_crl:
                validation.crl.filename = settings.ca_crl
    if _is_http2(options):
        common.alpn_protocols.append("h2")
    return context
