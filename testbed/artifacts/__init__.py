"""What a lab needs and this project does not make: releases of other people's programs, in a cache."""

from testbed.artifacts.catalogue import Artifact, Catalogue, read_catalogue
from testbed.artifacts.lockfile import LockFile, Pin
from testbed.artifacts.needed import (
    K3S_IMAGES,
    SAMPLES,
    Releases,
    k3s_archive,
    needed,
    on_nodes,
    releases_of,
    with_releases,
)
from testbed.artifacts.releases import envoy, mirror_envoy, pinned, planned_envoy
from testbed.artifacts.sources import MIRROR_VARIABLE, Source, mirror_of_environment, sources
from testbed.artifacts.store import OnProgress, Pulled, State, Store

__all__ = [
    "K3S_IMAGES",
    "MIRROR_VARIABLE",
    "SAMPLES",
    "Artifact",
    "Catalogue",
    "LockFile",
    "OnProgress",
    "Pin",
    "Pulled",
    "Releases",
    "Source",
    "State",
    "Store",
    "envoy",
    "k3s_archive",
    "mirror_envoy",
    "mirror_of_environment",
    "needed",
    "on_nodes",
    "pinned",
    "planned_envoy",
    "read_catalogue",
    "releases_of",
    "sources",
    "with_releases",
]
