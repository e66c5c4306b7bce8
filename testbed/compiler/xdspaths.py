"""Where configuration points at other files of the same proxy."""

from __future__ import annotations

from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig

from testbed.compiler.layout import DIRECTORY_MARK, file_name
from testbed.compiler.protobuf import duration

IDENTITY = "default"
"""The secret with the workload's certificate and key, under Istio's name."""
ROOTS = "ROOTCA"
"""The secret with the certificates of the mesh's CA, under Istio's name."""


def config_source(path: str) -> ConfigSource:
    """A file of the proxy's directory as a source.

    Envoy watches the directory and takes the file up when something is renamed to *its* name.  (With
    ``watched_directory`` every rename would make it read every file there again: with a thousand endpoint
    files, a million reads.)  No initial timeout: the file is there before anything points at it.
    """
    source = ConfigSource(resource_api_version=ApiVersion.V3, initial_fetch_timeout=duration(0))
    source.path_config_source.path = f"{DIRECTORY_MARK}/{path}"
    return source


def secret(name: str) -> SdsSecretConfig:
    """A secret by name, from ``sds/<name>.json``."""
    return SdsSecretConfig(name=name, sds_config=config_source(secret_path(name)))


def secret_path(name: str) -> str:
    """The file of a secret."""
    return f"sds/{file_name(name)}.json"


def endpoints_path(cluster: str) -> str:
    """The file of a cluster's endpoints."""
    return f"eds/{file_name(cluster)}.json"


def routes_path(name: str) -> str:
    """The file of a route configuration."""
    return f"rds/{file_name(name)}.json"
