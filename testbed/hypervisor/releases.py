"""Which releases a lab's machines were made with: kept in their metadata, since libvirt is the state."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import libvirt

from testbed.hypervisor.connection import translated
from testbed.hypervisor.machines import Hypervisor
from testbed.hypervisor.xml import RELEASES


def kept_releases(hypervisor: Hypervisor) -> dict[str, str]:
    """Product -> version on the shared disk of its machines; empty without machines, or releases.

    Raises HypervisorError.
    """
    with translated(hypervisor.lab, "read which releases it was made with"):
        for node in hypervisor.machines():
            xml = hypervisor.domain(node).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            element = ET.fromstring(xml).find(f"metadata/{{{RELEASES}}}releases")  # noqa: S314 - written by us
            if element is not None:
                return dict(element.attrib)
    return {}
