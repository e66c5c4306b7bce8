"""What makes a clone a node of its own sets MACs, addresses and routes without a process: in a network namespace."""

import subprocess
import sys

from testbed.host.directories import testbed_home as home

SCRIPT = """
import ipaddress, subprocess, sys
sys.path.insert(0, sys.argv[1])
import testbed_clone as clone

def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

ip("link", "add", "eth0", "address", "52:54:0a:00:00:09", "type", "veth", "peer", "name", "host")
ip("link", "set", "host", "up")
ip("address", "add", "10.9.0.9/24", "dev", "eth0")
ip("link", "set", "eth0", "up")
ip("route", "add", "default", "via", "10.9.0.1")
clone.address(clone.RTM_DELADDR, "eth0", ipaddress.IPv4Interface("10.9.0.9/24"))
clone.set_card("eth0", 0)
assert "state DOWN" in ip("address", "show", "eth0") and "10.9" not in ip("address", "show", "eth0")
assert not ip("route")
mine = ipaddress.IPv4Interface("10.77.3.10/20")
gateway = mine.network.network_address + 1
clone.set_card("eth0", 0, b"\\x52\\x54" + mine.ip.packed)
clone.address(clone.RTM_NEWADDR, "eth0", mine)
clone.set_card("eth0", clone.IFF_UP)
clone.default_route("eth0", gateway)
clone.greet(gateway)
print(ip("-o", "address", "show", "eth0"), ip("link", "show", "eth0"), ip("route"), ip("neigh"))
"""


def test_a_clone_gets_its_own_mac_addresses_and_route():
    node = home() / "images" / "shared" / "node"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCRIPT, str(node)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "52:54:0a:4d:03:0a" in done.stdout
    assert "inet 10.77.3.10/20 brd 10.77.15.255" in done.stdout
    assert "default via 10.77.0.1 dev eth0" in done.stdout
    assert "10.77.0.1 dev eth0" in done.stdout.rpartition("default via")[2]  # it asked for the host's MAC
