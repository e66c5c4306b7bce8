"""Mesh-wide settings that security needs: the extension providers that CUSTOM policies name.

The fields are those of Istio's MeshConfig (``extensionProviders``, of which the two external authorizers
are kept here).  A policy that names a provider that is missing or wrong denies what it matches, as istiod
does: in doubt nothing is let through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.http_uri_pb2 import HttpUri
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as http_authz
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as tcp_authz
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from pydantic import BeforeValidator, Field, model_validator

from testbed.compiler.protobuf import duration
from testbed.compiler.security import matching
from testbed.resources.values import Duration, Message

DEFAULT_TIMEOUT = 600.0
"""Seconds; istiod's, for authorizers without a timeout: Envoy's own would be 200 ms."""

ClusterLookup = Callable[[str, int], str | None]
"""The proxy's cluster for a host (``name.namespace.svc.cluster.local``, or of a ServiceEntry) and a port."""


Header = Annotated[str, Field(min_length=1, pattern=r"^(\*?[^*]+|[^*]+\*)$")]
"""A header's name, ``prefix*`` or ``*suffix``; a lone ``*`` is refused."""


class RequestBody(Message):
    """How much of a request's body the authorizer is sent, in bytes."""

    max_request_bytes: int = Field(gt=0)
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class _Authorizer(Message):
    service: str = Field(min_length=1)
    """Its host; ``namespace/host`` where a host is in two namespaces."""
    port: int = Field(ge=1, le=65535)
    timeout: Duration = DEFAULT_TIMEOUT
    fail_open: bool = False
    status_on_error: Annotated[int, BeforeValidator(int)] | None = None
    include_request_body_in_check: RequestBody | None = None

    @model_validator(mode="after")
    def _known_status(self) -> _Authorizer:
        if self.status_on_error is not None and self.status_on_error not in StatusCode.values():
            raise ValueError(f"statusOnError {self.status_on_error} is no status code that Envoy knows")
        return self


class EnvoyExtAuthzHttp(_Authorizer):
    """An authorizer that is asked by an HTTP request of its own."""

    path_prefix: str = Field("", pattern=r"^(/.*)?$")
    include_headers_in_check: tuple[Header, ...] = ()
    include_request_headers_in_check: tuple[Header, ...] = ()
    include_additional_headers_in_check: dict[str, str] = Field({})
    headers_to_upstream_on_allow: tuple[Header, ...] = ()
    headers_to_downstream_on_deny: tuple[Header, ...] = ()
    headers_to_downstream_on_allow: tuple[Header, ...] = ()


class EnvoyExtAuthzGrpc(_Authorizer):
    """An authorizer that speaks Envoy's ``ext_authz`` gRPC; the only kind that TCP connections can ask."""


class ExtensionProvider(Message):
    """One provider; exactly one of its kinds."""

    name: str = Field(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    envoy_ext_authz_http: EnvoyExtAuthzHttp | None = None
    envoy_ext_authz_grpc: EnvoyExtAuthzGrpc | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ExtensionProvider:
        if (self.envoy_ext_authz_http is None) == (self.envoy_ext_authz_grpc is None):
            raise ValueError("expected one of envoyExtAuthzHttp and envoyExtAuthzGrpc")
        return self


class MeshConfig(Message):
    """The part of Istio's MeshConfig that the compiler reads."""

    extension_providers: tuple[ExtensionProvider, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> MeshConfig:
        names = [p.name for p in self.extension_providers]
        if len(set(names)) != len(names):
            raise ValueError("extensionProviders: the names must differ")
        return self

    def provider(self, name: str) -> ExtensionProvider | None:
        """The provider of that name."""
        return next((p for p in self.extension_providers if p.name == name), None)


def http_authorizer(provider: ExtensionProvider, cluster: ClusterLookup) -> http_authz.ExtAuthz | None:
    """The ext_authz filter for HTTP; none when the provider's service is unknown to the mesh."""
    authorizer = provider.envoy_ext_authz_http or provider.envoy_ext_authz_grpc
    assert authorizer is not None  # noqa: S101  (the model holds exactly one)
    host, name = _lookup(authorizer, cluster)
    if name is None:
        return None
    out = http_authz.ExtAuthz(transport_api_version=ApiVersion.V3, failure_mode_allow=authorizer.fail_open)
    if authorizer.status_on_error is not None:
        out.status_on_error.CopyFrom(HttpStatus(code=authorizer.status_on_error))
    if body := authorizer.include_request_body_in_check:
        out.with_request_body.max_request_bytes = body.max_request_bytes
        out.with_request_body.allow_partial_message = body.allow_partial_message
        out.with_request_body.pack_as_bytes = body.pack_as_bytes
    if isinstance(authorizer, EnvoyExtAuthzGrpc):
        out.grpc_service.CopyFrom(_grpc(authorizer, host, name))
        return out
    service = out.http_service
    service.path_prefix = authorizer.path_prefix
    service.server_uri.CopyFrom(HttpUri(uri=f"http://{host}", cluster=name, timeout=duration(authorizer.timeout)))
    asked = authorizer.include_request_headers_in_check or authorizer.include_headers_in_check
    if asked:
        out.allowed_headers.CopyFrom(_headers(asked))
    for key, value in sorted(authorizer.include_additional_headers_in_check.items()):
        service.authorization_request.headers_to_add.add(key=key, value=value)
    answer = service.authorization_response
    for field, names in (
        ("allowed_upstream_headers", authorizer.headers_to_upstream_on_allow),
        ("allowed_client_headers", authorizer.headers_to_downstream_on_deny),
        ("allowed_client_headers_on_success", authorizer.headers_to_downstream_on_allow),
    ):
        if names:
            getattr(answer, field).CopyFrom(_headers(names))
    return out


def tcp_authorizer(provider: ExtensionProvider, cluster: ClusterLookup) -> tcp_authz.ExtAuthz | None:
    """The ext_authz filter for TCP; none for an HTTP authorizer, or an unknown service."""
    authorizer = provider.envoy_ext_authz_grpc
    if authorizer is None:
        return None
    host, name = _lookup(authorizer, cluster)
    if name is None:
        return None
    return tcp_authz.ExtAuthz(
        stat_prefix="tcp.",
        transport_api_version=ApiVersion.V3,
        failure_mode_allow=authorizer.fail_open,
        grpc_service=_grpc(authorizer, host, name),
    )


def _lookup(authorizer: _Authorizer, cluster: ClusterLookup) -> tuple[str, str | None]:
    host = authorizer.service.rpartition("/")[2]
    return host, cluster(host, authorizer.port)


def _grpc(authorizer: EnvoyExtAuthzGrpc, host: str, cluster: str) -> GrpcService:
    target = GrpcService.EnvoyGrpc(cluster_name=cluster, authority=host)
    return GrpcService(envoy_grpc=target, timeout=duration(authorizer.timeout))


def _headers(names: Sequence[str]) -> ListStringMatcher:
    return ListStringMatcher(patterns=[matching.text(n, ignore_case=True) for n in names])
