"""Gateway (networking.istio.io): which ports and hosts a gateway's proxy listens for."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from testbed.resources.values import Bool, Labels, Message, UInt32


class ServerTLSMode(StrEnum):
    """What a server asks of TLS clients; AUTO_PASSTHROUGH is for meshes of several networks."""

    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"


class TLSProtocol(StrEnum):
    """A TLS version; TLS_AUTO is TLS 1.2 at least."""

    TLS_AUTO = "TLS_AUTO"
    TLSV1_0 = "TLSV1_0"
    TLSV1_1 = "TLSV1_1"
    TLSV1_2 = "TLSV1_2"
    TLSV1_3 = "TLSV1_3"


class TLSCertificate(Message):
    """One of several certificates, by files."""

    server_certificate: str = ""
    private_key: str = ""


class FileTLSSettings(Message):
    """TLS of a server whose certificates are files: all that a Sidecar's ingress may have."""

    mode: ServerTLSMode = ServerTLSMode.PASSTHROUGH
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: TLSProtocol = TLSProtocol.TLS_AUTO
    max_protocol_version: TLSProtocol = TLSProtocol.TLS_AUTO
    cipher_suites: tuple[str, ...] = ()

    def as_server(self) -> ServerTLSSettings:
        """The same, as a gateway's server would have it."""
        return ServerTLSSettings(**dict(self))


class ServerTLSSettings(FileTLSSettings):
    """TLS of a gateway's server."""

    https_redirect: Bool = False
    credential_name: str = ""
    credential_names: tuple[str, ...] = ()
    ca_cert_credential_name: str = ""
    tls_certificates: tuple[TLSCertificate, ...] = ()
    subject_alt_names: tuple[str, ...] = ()


class Port(Message):
    """A port that a gateway listens on."""

    number: UInt32
    protocol: str
    name: str


class Server(Message):
    """A port with the hosts that are served on it; a host may be led by the namespace whose routes may bind."""

    port: Port
    bind: str = ""
    hosts: tuple[str, ...]
    tls: ServerTLSSettings | None = None
    name: str = ""


class Gateway(Message):
    """What the proxies that ``selector`` picks listen for."""

    servers: tuple[Server, ...] = ()
    selector: Labels = Field({})
