"""Istio's kinds as typed models, loaded from documents with located errors.

Behaviour and field names follow Istio 1.30.
"""

from testbed.resources.loading import dump, load
from testbed.resources.resource import Key, Resource, ResourceSet

__all__ = ["Key", "Resource", "ResourceSet", "dump", "load"]
