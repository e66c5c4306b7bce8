"""What on the host can be in the way of a lab's networks.

A lab with a private daemon has a network namespace of its own: neither the host's routes nor its firewall see
it.  On the system's daemon its bridges are the host's, and both matter.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from testbed.host.finding import Finding, Level

_BRIDGED = ("FORWARD", "-m", "physdev", "--physdev-is-bridged", "-j", "ACCEPT")
_ROUTES = Path("/proc/net/route")
_BRIDGE_CALLS = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def probe(uri: str, networks: Sequence[IPv4Network], own_interfaces: Sequence[str] = ()) -> list[Finding]:
    """``own_interfaces``: the lab's own bridges, which may have routes to its networks."""
    if uri == "auto":
        why = "packets between nodes must reach them, and nobody else"
        return [Finding("networks", Level.OK, "the lab has a network namespace of its own", why)]
    return [clashes(networks, _ROUTES.read_text(), own_interfaces), firewall()]


def clashes(networks: Sequence[IPv4Network], table: str, own_interfaces: Sequence[str] = ()) -> Finding:
    """Compare with a routing table in the form of ``/proc/net/route``."""
    why = "an address must mean one machine"
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        interface, destination, mask = fields[0], _address(fields[1]), _address(fields[7])
        route = IPv4Network((destination, str(mask)), strict=False)
        if route.prefixlen and interface not in own_interfaces:  # the default route overlaps everything
            found += [f"{n} is also on {interface} ({route})" for n in networks if n.overlaps(route)]
    if found:
        mend = "give the inventory's `networks` other addresses"
        return Finding("addresses", Level.MISSING, "; ".join(sorted(set(found))), why, mend)
    return Finding("addresses", Level.OK, "no route of the host overlaps the lab's networks", why)


def firewall(bridge_calls: Path = _BRIDGE_CALLS) -> Finding:
    """Docker sets the FORWARD policy to DROP; with br_netfilter that also drops what crosses a bridge."""
    why = "the host's firewall may drop packets between nodes"
    name = "firewall"
    if not bridge_calls.exists() or bridge_calls.read_text().strip() != "1":
        return Finding(name, Level.OK, "packets that cross a bridge are not filtered", why)
    fix = ("iptables", "-I", *_BRIDGED)
    if shutil.which("iptables") is None:
        return Finding(name, Level.WARNING, "bridged packets are filtered, and iptables is not there to ask", why)
    rules = subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True, check=False)
    if rules.returncode != 0:
        detail = "packets that cross a bridge are filtered; only root sees by what"
        return Finding(name, Level.WARNING, detail, why, "run `testbed doctor` as root")
    lines = rules.stdout.splitlines()
    if "-P FORWARD DROP" in lines and "-A " + " ".join(_BRIDGED) not in lines:
        detail = "the FORWARD policy is DROP (Docker sets it), and packets that cross a bridge are filtered"
        return Finding(name, Level.MISSING, detail, why, " ".join(fix), fix)
    return Finding(name, Level.OK, "packets that cross a bridge are let through", why)


def _address(text: str) -> IPv4Address:
    # the kernel prints the four bytes as one number of this host
    return IPv4Address(struct.pack("=I", int(text, 16)))
