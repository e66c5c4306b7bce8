"""Faults that a caller's proxy makes, and cross-origin rules: filters that routes configure."""

from __future__ import annotations

from envoy.extensions.filters.common.fault.v3.fault_pb2 import FaultDelay
from envoy.extensions.filters.http.cors.v3.cors_pb2 import CorsPolicy as EnvoyCorsPolicy
from envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort, HTTPFault
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent

from testbed.compiler.matches import string_matcher
from testbed.compiler.protobuf import boolean, duration
from testbed.resources.virtual_service import CorsPolicy, HTTPFaultInjection, UnmatchedPreflights

GRPC_STATUS = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""gRPC's status codes: the place is the number."""


def fractional(percent: float) -> FractionalPercent:
    """A share of a hundred, to the ten-thousandth of a percent (cut off, as istiod does)."""
    return FractionalPercent(numerator=int(percent * 10000), denominator=FractionalPercent.MILLION)


def fault(injection: HTTPFaultInjection) -> HTTPFault | None:
    """Delay and abort; ``None`` when neither is left.

    A share that is left out is none of the requests for an abort and the whole-number ``percent`` for a delay,
    which is istiod's behaviour; the reference page says 100 for both.
    """
    out = HTTPFault()
    if (delay := injection.delay) is not None and delay.fixed_delay is not None:
        share = (
            fractional(delay.percentage.value)
            if delay.percentage is not None
            else FractionalPercent(numerator=delay.percent, denominator=FractionalPercent.HUNDRED)
        )
        out.delay.CopyFrom(FaultDelay(fixed_delay=duration(delay.fixed_delay), percentage=share))
    if (abort := injection.abort) is not None and (abort.http_status is not None or abort.grpc_status):
        aborted = FaultAbort()
        if abort.http_status is not None:
            aborted.http_status = abort.http_status
        else:
            aborted.grpc_status = GRPC_STATUS.index((abort.grpc_status or "").upper())
        if abort.percentage is not None:
            aborted.percentage.CopyFrom(fractional(abort.percentage.value))
        out.abort.CopyFrom(aborted)
    return out if out.HasField("delay") or out.HasField("abort") else None


def cors_policy(policy: CorsPolicy) -> EnvoyCorsPolicy:
    """The CORS filter's settings on a route."""
    out = EnvoyCorsPolicy(
        allow_headers=",".join(policy.allow_headers),
        allow_methods=",".join(policy.allow_methods),
        expose_headers=",".join(policy.expose_headers),
        # IGNORE: the proxy answers preflights of other origins itself
        forward_not_matching_preflights=boolean(policy.unmatched_preflights is not UnmatchedPreflights.IGNORE),
    )
    origins = [string_matcher(m) for m in policy.allow_origins]
    out.allow_origin_string_match.extend(origins or [StringMatcher(exact=o) for o in policy.allow_origin])
    out.filter_enabled.default_value.CopyFrom(
        FractionalPercent(numerator=100, denominator=FractionalPercent.HUNDRED)
    )
    if policy.allow_credentials is not None:
        out.allow_credentials.CopyFrom(boolean(policy.allow_credentials))
    if policy.max_age is not None:
        out.max_age = str(int(policy.max_age))
    return out
