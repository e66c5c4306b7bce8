"""What proxies write down of every request and connection: one JSON object a line."""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog

from testbed.compiler.layout import ACCESS_LOG_MARK
from testbed.compiler.protobuf import packed, struct

FIELDS = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "duration": "%DURATION%",
    "request_attempt_count": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "x_request_id": "%REQ(X-REQUEST-ID)%",
    "route_name": "%ROUTE_NAME%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_peer_uri_san": "%UPSTREAM_PEER_URI_SAN%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_peer_uri_san": "%DOWNSTREAM_PEER_URI_SAN%",
    "downstream_local_uri_san": "%DOWNSTREAM_LOCAL_URI_SAN%",
    "downstream_tls_version": "%DOWNSTREAM_TLS_VERSION%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
}
"""Keys of a line, and what Envoy puts there; a value that is unknown is null."""


def file_log(expression: str = "") -> AccessLog:
    """The log; with a CEL ``expression``, only of what it is true for."""
    config = FileAccessLog(path=ACCESS_LOG_MARK)
    config.log_format.json_format.CopyFrom(struct(FIELDS))
    log = AccessLog(name="envoy.access_loggers.file", typed_config=packed(config))
    if expression:
        from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter

        log.filter.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
        log.filter.extension_filter.typed_config.CopyFrom(packed(ExpressionFilter(expression=expression)))
    return log


def unrouted_log(log: AccessLog) -> AccessLog:
    """The listener's own log: of connections that no filter chain took (``NR``), which else leave no trace."""
    copy = AccessLog()
    copy.CopyFrom(log)
    if not copy.HasField("filter"):
        copy.filter.response_flag_filter.flags.append("NR")
    return copy
