"""What a lab needs and this project does not make: releases of other people's programs, in a cache."""

from testbed.artifacts.releases import envoy, pinned

__all__ = ["envoy", "pinned"]
