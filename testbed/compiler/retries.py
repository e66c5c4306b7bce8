"""Retries: Istio's policy, and the one that holds when there is none."""

from __future__ import annotations

from http import HTTPStatus

from envoy.config.route.v3.route_components_pb2 import RetryPolicy
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig,
)

from testbed.compiler.protobuf import duration, packed, u32
from testbed.resources.virtual_service import HTTPRetry

DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
"""istiod 1.30 has no status code in the default: 503 was dropped from it, so an application's own 503 is
answered, not retried, unless ``retryOn`` says so (the reference page still speaks of 503)."""


def retry_policy(retries: HTTPRetry | None, *, hashed: bool) -> RetryPolicy | None:
    """The route's policy; ``None`` when ``attempts`` turns retries off.

    ``hashed``: under consistent hashing a retry has to stay on its endpoint, so others are not preferred.
    """
    if retries is not None and retries.attempts <= 0:
        return None
    out = RetryPolicy(num_retries=u32(2), retry_on=DEFAULT_RETRY_ON, host_selection_retry_max_attempts=5)
    elsewhere = not hashed
    if retries is not None:
        out.num_retries.value = retries.attempts
        if retries.retry_on:
            out.retry_on, codes = _conditions(retries.retry_on)
            out.retriable_status_codes.extend(codes)
        if retries.per_try_timeout is not None:
            out.per_try_timeout.CopyFrom(duration(retries.per_try_timeout))
        if retries.retry_ignore_previous_hosts is not None:
            elsewhere = retries.retry_ignore_previous_hosts
        if retries.retry_remote_localities:
            out.retry_priority.name = "envoy.retry_priorities.previous_priorities"
            out.retry_priority.typed_config.CopyFrom(packed(PreviousPrioritiesConfig(update_frequency=2)))
        if retries.backoff is not None:
            out.retry_back_off.base_interval.CopyFrom(duration(retries.backoff))
    if elsewhere:
        out.retry_host_predicate.add(
            name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(PreviousHostsPredicate())
        )
    return out


def _conditions(text: str) -> tuple[str, list[int]]:
    """Conditions and status codes stand mixed in Istio's ``retryOn``; Envoy wants them apart."""
    words, codes = [], []
    known = {s.value for s in HTTPStatus}
    for word in (w.strip() for w in text.split(",")):
        if word.isdigit() and int(word) in known:
            codes.append(int(word))
        elif word:
            words.append(word)
    if codes and not any("retriable-status-codes" in w for w in words):
        words.append("retriable-status-codes")
    return ",".join(words), codes
