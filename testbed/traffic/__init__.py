"""Requests and what became of them: the agent's plan, its samples, and where it runs."""

from testbed.traffic.local import HostConnection
from testbed.traffic.sample import Sample, TrafficSummary
from testbed.traffic.sending import AGENT, TrafficFailed, TrafficRun, send
from testbed.traffic.spec import Request, TrafficSpec

__all__ = [
    "AGENT",
    "HostConnection",
    "Request",
    "Sample",
    "TrafficFailed",
    "TrafficRun",
    "TrafficSpec",
    "TrafficSummary",
    "send",
]
