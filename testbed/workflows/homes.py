"""Where the pods of a lab are, as plans and people are told."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

from testbed.backends.istio.homes import Homes, bound_pods, pods_of
from testbed.backends.istio.reaching import api_of
from testbed.errors import TestbedError
from testbed.lab.lab import Lab
from testbed.plan import ObservedLab


def with_pods_away(lab: Lab, observed: ObservedLab) -> ObservedLab:
    """``observed``, and the pods that can be sent home; none of a cluster that does not answer."""
    if observed.pods is None:
        return observed
    try:
        with closing(api_of(lab)) as api:
            sent = Homes(api, pods_of(lab)).to_send()
    except TestbedError:
        return observed
    return replace(observed, away={pod.workload: pod.home for pod in sent})


def pods_away(lab: Lab) -> Mapping[str, str]:
    """Workload -> the node that its pod is on, of those that are not on their own; none without an answer."""
    if not lab.has_cluster:
        return {}
    try:
        return {pod.workload: pod.node for pod in bound_pods(lab) if pod.is_away}
    except TestbedError:
        return {}
