"""What faults have left behind: looked for on the host and in every guest, and not in our own notes alone."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from testbed.backends.guest import Guest
from testbed.errors import TestbedError
from testbed.faults import network
from testbed.faults.breaking import Breaker
from testbed.faults.disks import DISK, PROBE
from testbed.faults.inside import in_guest
from testbed.hypervisor.breaking import DomainBreaker
from testbed.hypervisor.machines import Power
from testbed.lab.lab import Lab
from testbed.model.topology import MeshWorkload, ProxyKind
from testbed.plan.guestfaults import ARRIVING, FILL, MESH_NIC

CLOCK = 5
"""Seconds that a guest's clock may be off; a busy machine takes some of them to be asked."""

ROUNDED = 1024**2
"""Bytes that a balloon may seem to keep: libvirt counts in KiB."""


def leftovers(lab: Lab) -> tuple[str, ...]:
    """A line for each thing that is not as before any fault; none when all is.  Raises nothing of the lab's: what
    can't be looked at is a line, too."""
    nodes = [n.name for n in lab.inventory.nodes]
    with ThreadPoolExecutor(len(nodes) + 1) as pool:
        host = pool.submit(_told, lab.id, lambda: _on_host(lab))
        guests = pool.map(lambda node: _told(node, lambda: _in_guest(lab, node)), nodes)
        return (*host.result(), *(line for found in guests for line in found))


def _told(subject: str, look: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return list(look())
    except TestbedError as e:
        return [f"{subject}: can't be looked at: {e}"]


def _on_host(lab: Lab) -> Iterable[str]:
    breaker = Breaker(lab)
    for standing in breaker.standing():
        yield f"{', '.join(standing.nodes)}: the note of a fault: {standing.fault.title}"
    for table in network.tables(lab) if shutil.which("nft") is not None else ():
        yield f"{lab.id}: the nftables table {table}"
    domains = DomainBreaker(lab.hypervisor())
    for name, machine in breaker.machines.items():
        if (power := domains.power(name)) is not Power.RUNNING:
            yield f"{name}: the domain is {power}"
            continue
        if (memory := domains.memory(name)) < machine.memory - ROUNDED:
            yield f"{name}: its balloon leaves it {memory >> 20} MiB of {machine.memory >> 20}"
        if limit := domains.writes_limited(name, DISK):
            yield f"{name}: {limit} bytes a second are written to its disk at most"


def _in_guest(lab: Lab, node: str) -> Iterable[str]:
    units = not lab.has_cluster  # of pods there are none
    here = [w for w in lab.topology.workloads if units and w.node == node]
    lab.connection(node).connect()  # before it is told the time
    status, said = in_guest(lab, node, script(here, Guest()), limit=60)
    lines = said.splitlines()
    if status != 0 or lines[-1:] != ["looked"]:
        yield f"{node}: can't be looked at: {said[-200:] or f'exit status {status}'}"
    yield from (f"{node}: {line}" for line in lines if line != "looked")


def script(here: Iterable[MeshWorkload], guest: Guest) -> str:
    """Says a line for each thing that a fault left in this guest, and at last that it has looked."""
    looks = [
        f"tc qdisc show dev {MESH_NIC} | grep -q netem && echo its link is shaped",
        f"[ ! -e /sys/class/net/{ARRIVING} ] || echo what arrives at its link is shaped",
        f'[ "$(cat /sys/class/net/{MESH_NIC}/carrier)" = 1 ] || echo its mesh NIC has no carrier',
        "systemctl list-units --no-legend --plain 'testbed-fault*' | sed 's/ .*//; s/^/the unit /'",
        f"for file in {FILL} {FILL}.probe {PROBE}; do [ ! -e $file ] || echo the file $file; done",
        f'off=$(($(date +%s) - ${{NOW%.*}})); [ ${{off#-}} -le {CLOCK} ] || echo "its clock is off by $off s"',
        "tick=$(busybox adjtimex | awk '$2 == \"tick:\" {print $3}'); "
        '[ "${tick:-10000}" = 10000 ] || echo "its clock ticks $tick us in place of 10000"',
    ]
    for workload in here:
        folder = shlex.quote(str(guest.layout.directory(workload)))
        looks.append(f"find {folder} -name '*.kept' | sed 's/^/the certificate put by in /'")
        units = [f"testbed-sidecar@{workload.name}"]
        if workload.service and workload.ports and workload.kind is ProxyKind.SIDECAR:
            units.append(f"testbed-program@{workload.name}")
        for unit in units:
            pid = f"$(systemctl show -p MainPID --value {unit})"
            looks.append(
                f"state=$(systemctl show -p ActiveState --value {unit}); "
                f'[ "$state" = active ] || echo "the unit {unit} is $state"; '
                f"grep -q 'State:.T' /proc/{pid}/status 2>/dev/null && echo the process of {unit} is stopped"
            )
    return "\n".join([*looks, "echo looked"])
