"""A machine's definition is a pure function of the machine."""

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from xml.etree import ElementTree as ET

from testbed.hypervisor.xml import METADATA, Boot, Cpu, Machine, Nic, domain_uuid, domain_xml, network_xml

MACHINE = Machine(
    lab="lab",
    node="left",
    vcpus=1,
    memory=512 * 1024**2,
    kvm=False,
    cpu=Cpu("qemu64", ("ssse3", "pclmuldq")),
    boot=Boot(Path("/k"), Path("/i"), "root=/dev/vda"),
    disk=Path("/d"),
    seed=Path("/s"),
    shared=Path("/h"),
    console=Path("/c"),
    nics=(Nic("lab-management", "52:54:0a:4d:00:0a", "t0"), Nic("lab-mesh", "52:56:0a:4e:00:0a", "t1")),
    spec="abc",
)


def parsed(machine=MACHINE):
    return ET.fromstring(domain_xml(machine))


def test_the_same_machine_gives_the_same_bytes():
    assert domain_xml(MACHINE) == domain_xml(replace(MACHINE))


def test_the_lab_marks_what_is_its_own():
    mark = parsed().find(f"metadata/{{{METADATA}}}node")
    assert mark.attrib == {"lab": "lab", "node": "left", "spec": "abc"}


def test_the_uuid_is_fixed_per_lab_and_node():
    assert parsed().findtext("uuid") == domain_uuid("lab", "left") != domain_uuid("other", "left")


def test_without_kvm_the_processor_is_spelt_out():
    root = parsed()
    assert root.get("type") == "qemu"
    assert [f.get("name") for f in root.findall("cpu/feature")] == ["ssse3", "pclmuldq"]


def test_with_kvm_the_hosts_processor_is_passed_through():
    root = parsed(replace(MACHINE, kvm=True, cpu=Cpu(None)))
    assert (root.get("type"), root.find("cpu").get("mode")) == ("kvm", "host-passthrough")


def test_what_faults_and_snapshots_need_is_there_from_the_start():
    root = parsed()
    assert [d.find("target").get("dev") for d in root.findall("devices/disk")] == ["vda", "vdb", "vdc"]
    assert [d.find("readonly") is not None for d in root.findall("devices/disk")] == [False, True, True]
    assert [n.find("mac").get("address") for n in root.findall("devices/interface")] == [
        n.mac for n in MACHINE.nics
    ]
    assert root.find("devices/memballoon").get("freePageReporting") == "on"
    assert root.find("devices/rng") is not None
    assert root.find("devices/video") is None


def test_a_base_image_of_its_own_boots_by_its_own_loader():
    assert parsed(replace(MACHINE, boot=None)).find("os/kernel") is None


def test_a_network_gives_out_no_addresses():
    root = ET.fromstring(network_xml("lab", "mesh", IPv4Network("10.78.0.0/24"), "br0", "52:5a:0a:4e:00:01", "s"))
    assert root.find("ip").attrib == {"address": "10.78.0.1", "prefix": "24"}
    assert root.find("ip/dhcp") is None
    assert root.find("dns").get("enable") == "no"
    assert root.find("forward") is None


def test_a_network_made_anew_answers_to_the_same_mac():
    root = ET.fromstring(network_xml("lab", "mesh", IPv4Network("10.78.0.0/24"), "br0", "52:5a:0a:4e:00:01", "s"))
    assert root.find("mac").get("address") == "52:5a:0a:4e:00:01"
