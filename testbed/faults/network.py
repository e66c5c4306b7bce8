"""Packets that are lost on the lab's bridge: one nftables table a fault, in the network namespace of the lab.

Rules name addresses of the mesh network only, so the management network is out of reach.  Each rule counts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from ipaddress import IPv4Address

from testbed.errors import HostNotReady, LabError
from testbed.host.namespaces import command_in
from testbed.lab.lab import Lab
from testbed.plan.faults import Silence


def table_name(lab: Lab, fault: str) -> str:
    """The table of a fault: it names the lab too, as on the system's daemon several share a namespace."""
    return f"testbed-{lab.tag}-{fault}"


def silence(lab: Lab, fault: str, action: Silence) -> None:
    """Lose the packets from now on; a table that is there already stays as it is."""
    _nft(lab, ["-f", "-"], ruleset(table_name(lab, fault), action))


def ruleset(table: str, action: Silence) -> str:
    """The table, as nft reads it."""
    rules = [_rule(action.sources, action.targets, "dport", action.port)]
    if action.both:
        rules.append(_rule(action.targets, action.sources, "sport", action.port))
    if not action.port:
        # who has not heard of the other for long, or never will as that machine is dead, sends nothing but this
        rules.append(_asking(action.sources, action.targets))
        if action.both:
            rules.append(_asking(action.targets, action.sources))
    chain = "".join(f"    {rule}\n" for rule in rules)
    return (
        f"table bridge {table} {{\n  chain forward {{\n    type filter hook forward priority -200; policy accept;\n"
        f"{chain}  }}\n}}\n"
    )


def _rule(sources: Iterable[IPv4Address], targets: Iterable[IPv4Address], direction: str, port: int | None) -> str:
    of_port = f" tcp {direction} {port}" if port else ""
    return f"ip saddr {_set(sources)} ip daddr {_set(targets)}{of_port} counter drop"


def _asking(sources: Iterable[IPv4Address], targets: Iterable[IPv4Address]) -> str:
    return f"arp operation request arp saddr ip {_set(sources)} arp daddr ip {_set(targets)} counter drop"


def _set(addresses: Iterable[IPv4Address]) -> str:
    return "{ " + ", ".join(str(a) for a in sorted(set(addresses))) + " }"


def lost(lab: Lab, fault: str) -> int:
    """How many packets have been lost to the fault; 0 when it is not there."""
    try:
        listed = json.loads(_nft(lab, ["-j", "list", "table", "bridge", table_name(lab, fault)], ""))
    except LabError:
        return 0
    rules = [entry["rule"] for entry in listed["nftables"] if "rule" in entry]
    counters = [part["counter"] for rule in rules for part in rule["expr"] if "counter" in part]
    return sum(int(c["packets"]) for c in counters)


def restore(lab: Lab, fault: str) -> None:
    """Let the packets through again; nothing to restore is no error."""
    if table_name(lab, fault) in tables(lab):
        _nft(lab, ["delete", "table", "bridge", table_name(lab, fault)], "")


def tables(lab: Lab) -> tuple[str, ...]:
    """Tables of this lab's faults.  None for users other than root, who can't make any."""
    if os.geteuid() != 0:
        return ()
    listed = json.loads(_nft(lab, ["-j", "list", "tables", "bridge"], ""))
    names = [entry["table"]["name"] for entry in listed["nftables"] if "table" in entry]
    return tuple(n for n in names if n.startswith(f"testbed-{lab.tag}-"))


def faults_with_tables(lab: Lab) -> set[str]:
    """The ids of the faults that have one; a host without nft has none."""
    if shutil.which("nft") is None:
        return set()
    return {table.removeprefix(table_name(lab, "")) for table in tables(lab)}


def forget_all(lab: Lab) -> None:
    """Remove every table of the lab's faults; a host without nft has none."""
    if shutil.which("nft") is not None:
        for table in tables(lab):
            _nft(lab, ["delete", "table", "bridge", table], "")


def _nft(lab: Lab, arguments: list[str], text: str) -> str:
    argv = ["nft", *arguments]
    if lab.private:
        found = lab.daemon.find()
        if found is None or not found.contained:
            raise LabError(lab.id, "filter on its bridge", "the lab is not up", "run: testbed up")
        argv = command_in(found.contained[0].pid, argv, mount=False)
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostNotReady(lab.id, "filter on its bridge", "nft is missing", "run: testbed doctor --fix") from None
    if done.returncode != 0:
        raise LabError(lab.id, f"nft {' '.join(arguments)}", done.stderr.strip().splitlines()[0])
    return done.stdout
