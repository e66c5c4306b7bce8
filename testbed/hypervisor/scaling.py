"""How many instances a lab was scaled to: kept in the metadata of its machines, since libvirt is the state.

Every machine carries all of it with the time it was said, so that one machine made anew, or a writer who was killed
half-way, loses nothing: what was said last holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from xml.etree import ElementTree as ET

import libvirt

from testbed.hypervisor.connection import translated
from testbed.hypervisor.machines import Hypervisor

SCALE = "urn:testbed:scale:1"
"""XML namespace of the element."""


def keep_scale(hypervisor: Hypervisor, scale: Mapping[str, int], at: float) -> None:
    """Write it to every machine; ``at`` is the time, in seconds since the epoch.  Raises HypervisorError."""
    element = ET.Element("scale", at=f"{at:.3f}")
    element.text = json.dumps(dict(scale), sort_keys=True)
    text = ET.tostring(element, encoding="unicode")
    for node in hypervisor.machines():
        with translated(node, "note how the lab is scaled"):
            hypervisor.domain(node).setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "testbedscale", SCALE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
            )


def kept_scale(hypervisor: Hypervisor) -> dict[str, int]:
    """Workload -> instances, as it was said last; empty when it never was.  Raises HypervisorError."""
    last, scale = "", {}
    with translated(hypervisor.lab, "read how it is scaled"):
        for node in hypervisor.machines():
            xml = hypervisor.domain(node).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            element = ET.fromstring(xml).find(f"metadata/{{{SCALE}}}scale")  # noqa: S314 - written by us
            if element is not None and (at := element.get("at", "")) > last:
                last, scale = at, json.loads(element.text or "{}")
    return scale
