"""Faults that are made inside the guest, as shell scripts that begin, prove and end them.

A script that ends a fault may be run twice, and after a reboot, without harm; one that proves prints what it saw.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from testbed.model.fault import Fault, FaultKind

MESH_NIC = "eth1"
FILL = "/var/tmp/testbed-fault.fill"  # noqa: S108 - in the guest
HOG = "testbed-fault-hog"
ARRIVING = "testbed-ifb"
"""The guest's device through which what arrives is sent, to be shaped."""


@dataclass(frozen=True)
class InGuest:
    """Two scripts for the guest, and a third that proves: it ends with status 0 while the fault holds."""

    node: str
    begin: str
    end: str
    proof: str
    part: str
    """What of the machine it takes hold of, for conflicts."""


def unit_broken(kind: FaultKind, node: str, name: str) -> InGuest:
    """The process of a workload: its sidecar, or its program."""
    of_sidecar = kind.value.startswith("sidecar-")
    unit = f"testbed-{'sidecar' if of_sidecar else 'program'}@{name}"
    pid = f"$(systemctl show -p MainPID --value {unit})"
    match kind:
        case FaultKind.SIDECAR_HANG | FaultKind.SERVICE_HANG:
            return InGuest(
                node,
                begin=f"systemctl kill -s STOP {unit}",
                end=f"systemctl kill -s CONT {unit} || true",
                proof=f"grep -q 'State:.T' /proc/{pid}/status && echo 'its state is T (stopped)'",
                part=unit,
            )
        case FaultKind.SIDECAR_RESTART:
            return InGuest(
                node,
                begin=f'before={pid}; systemctl restart {unit}; echo "was $before" >/run/{unit}.fault',
                end=f"rm -f /run/{unit}.fault",
                proof=f"read -r _ was </run/{unit}.fault; now={pid}; "
                'echo "process $was became $now"; [ "$was" != "$now" ] && [ "$now" != 0 ]',
                part=unit,
            )
        case _:
            # held down: a unit that restarts itself after a second would be a fault of a second
            return InGuest(
                node,
                begin=f"systemctl kill -s KILL {unit}; systemctl stop {unit}",
                end=f"systemctl start {unit}",
                proof=f'state=$(systemctl show -p ActiveState --value {unit}); echo "the unit is $state"; '
                '[ "$state" != active ]',
                part=unit,
            )


def disk_full(node: str) -> InGuest:
    """The root file system, by a file that takes all of it."""
    return InGuest(
        node,
        # root's reserve is taken too: everything in a guest that matters runs as somebody who could use it or not
        begin=f"free=$(stat -f -c '%f * %S' /); fallocate -l $(($free - 65536)) {FILL} 2>/dev/null; "
        f"dd if=/dev/zero of={FILL} bs=4k oflag=append conv=notrunc 2>/dev/null || true",
        # on the disk, too: a machine that goes down next would have the file again, and nobody to mend it
        end=f"rm -f {FILL} {FILL}.probe; sync -f /",
        proof=f"! dd if=/dev/zero of={FILL}.probe bs=64k count=1 2>/run/testbed-fault.words; "
        f"status=$?; tail -n1 /run/testbed-fault.words; rm -f {FILL}.probe; "
        "grep -q 'No space left' /run/testbed-fault.words && exit $status",
        part="space",
    )


def starved(node: str) -> InGuest:
    """The processors, by loops that take most of them."""
    # four loops with four times a service's weight: what else runs gets about a fifth of the processor, so that the
    # node can still be told to stop
    loop = "for i in 1 2 3 4; do (while :; do :; done) & done; wait"
    used = f"$(systemctl show -p CPUUsageNSec --value {HOG})"
    look = f"read -r up _ </proc/uptime; set -- {used} ${{up%.*}}${{up#*.}}"
    return InGuest(
        node,
        begin=f"systemd-run -q --unit={HOG} --property=CPUWeight=400 sh -c {shlex.quote(loop)}",
        end=f"systemctl stop {HOG} 2>/dev/null || true",
        # nanoseconds of processor over hundredths of a second that went by, in percent
        proof=f"{look}; a=$1; since=$2; sleep 1; {look}; share=$((($1 - $a) / ($2 - $since) / 100000)); "
        'echo "a hog takes $share% of a processor"; [ $share -ge 40 ]',
        part="CPU",
    )


def renewed(peers: Mapping[str, Iterable[IPv4Address]], told: str) -> str:
    """Closes what each network namespace has with these addresses, so that handshakes are made anew: who is
    connected already is judged no more.  How many there were is laid into the file ``told``."""
    script = ""
    for namespace, addresses in peers.items():
        if to := " or ".join(f"dst {a}" for a in addresses):
            script += f"nsenter --net=/run/netns/{namespace} ss -HtK state connected {shlex.quote(to)}; "
    return f"{{ {script}:; }} 2>/dev/null | wc -l >{told}"


def clock(node: str, by: float, peers: Mapping[str, Iterable[IPv4Address]]) -> InGuest:
    """The clock, set ``by`` seconds wrong; ``peers``: as for :func:`renewed`."""
    # the true time comes from the host with each script, as $NOW (seconds since the epoch)
    shifted = f'$(awk "BEGIN {{printf \\"%.3f\\", $NOW + ({by:.3f})}}")'
    low, high = by - 30, by + 30
    closed = "/run/testbed-fault.closed"
    return InGuest(
        node,
        begin=f"date -s @{shifted} >/dev/null && {renewed(peers, closed)}",
        end="date -s @$NOW >/dev/null",
        proof="off=$(($(date +%s) - ${NOW%.*})); echo \"the guest's clock is off by $off s,"
        f' $(cat {closed}) connections are to be made anew"; '
        f"[ $off -ge {int(low)} ] && [ $off -le {int(high)} ] && [ ${{off#-}} -ge 1 ]",
        part="clock",
    )


def drifting(node: str, percent: float) -> InGuest:
    """The clock, which gains so many percent."""
    # the raw clock is the one that the tick does not touch
    off = "time.time() - time.clock_gettime(time.CLOCK_MONOTONIC_RAW)"
    measure = f"import time; a = {off}; time.sleep(2); gained = ({off} - a) * 50; "
    wrong = f"abs(gained - {percent:g}) > {abs(percent) / 2:g}"
    judge = f"print(f'its clock gains {{gained:.1f}}%'); raise SystemExit({wrong})"
    return InGuest(
        node,
        begin=f"busybox adjtimex -q -t {round(10_000 * (1 + percent / 100))}",
        end="busybox adjtimex -q -t 10000; date -s @$NOW >/dev/null",
        proof=f"python3 -IS -c {shlex.quote(measure + judge)}",
        part="clock",
    )


@dataclass(frozen=True)
class Shape:
    """What a slow link does to packets, each way that is shaped.  Times are in seconds, ``rate`` in bytes each."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    """In percent, as are ``duplicate`` and ``reorder``."""
    duplicate: float = 0.0
    reorder: float = 0.0
    rate: float = 0.0
    """0: as fast as the link is."""
    ways: int = 1
    """2: what the machine is sent is shaped as well."""


@dataclass(frozen=True)
class SlowLink:
    """The queue of the machine's mesh NIC, by two scripts; it is proved with echoes to one of ``others``."""

    node: str
    begin: str
    end: str
    shape: Shape
    others: tuple[IPv4Address, ...]


def slow_link(node: str, fault: Fault, others: tuple[IPv4Address, ...]) -> SlowLink:
    """What the machine sends goes through netem; ``bothWays``: what it is sent too, on an ifb that gets all."""
    words = []
    if fault.delay is not None:
        words.append(f"delay {fault.delay * 1000:g}ms" + (f" {fault.jitter * 1000:g}ms" if fault.jitter else ""))
    for name in ("loss", "duplicate", "reorder"):
        if (value := getattr(fault, name)) is not None:
            words.append(f"{name} {value:g}%")
    if fault.rate is not None:
        words.append(f"rate {fault.rate * 8192}bit")
    netem = f"root netem limit 10000 {' '.join(words)}"
    begin = f"modprobe sch_netem && tc qdisc replace dev {MESH_NIC} {netem}"
    end = f"tc qdisc del dev {MESH_NIC} root 2>/dev/null || true"
    if fault.both_ways:
        redirect = f"protocol all u32 match u32 0 0 action mirred egress redirect dev {ARRIVING}"
        begin = (
            "set -e; modprobe -a sch_ingress cls_u32 act_mirred; modprobe ifb numifbs=0; "
            f"ip link show {ARRIVING} >/dev/null 2>&1 || ip link add {ARRIVING} type ifb; "
            f"ip link set {ARRIVING} up; {begin}; tc qdisc replace dev {ARRIVING} {netem}; "
            f"tc qdisc replace dev {MESH_NIC} ingress; tc filter replace dev {MESH_NIC} parent ffff: {redirect}"
        )
        end = f"tc qdisc del dev {MESH_NIC} ingress 2>/dev/null; ip link del {ARRIVING} 2>/dev/null; {end}"
    shape = Shape(
        fault.delay or 0.0,
        fault.jitter or 0.0,
        fault.loss or 0.0,
        fault.duplicate or 0.0,
        fault.reorder or 0.0,
        1024.0 * (fault.rate or 0),
        2 if fault.both_ways else 1,
    )
    return SlowLink(node, begin, end, shape, others)
