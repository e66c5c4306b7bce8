"""What a lab needs and this project does not make: releases of other people's programs, in a cache."""

from testbed.artifacts.releases import envoy, pinned, planned_envoy

__all__ = ["envoy", "pinned", "planned_envoy"]
