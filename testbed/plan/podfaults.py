"""Faults of what runs in pods, as shell scripts for the pod's node; see :mod:`.guestfaults`.

The kubelet starts a container again as soon as its process ends, so what shall be down for a while is killed again
and again by a unit of its own.  Afterwards the kubelet takes its time: 10 s, then twice that with each further try.
"""

from __future__ import annotations

import shlex

from testbed.model.fault import FaultKind
from testbed.plan.guestfaults import InGuest

SIDECAR_USER = 1337
"""Whom Istio's sidecars and gateways run as; nobody else in a pod does."""

ISTIOD = "pilot-discovery"
"""istiod's process; as long as the kernel keeps a name."""

NAME_PODS = """
for pid in $(pgrep -x 'pilot-agent|python3'); do
  name=$(tr '\\0' '\\n' <"/proc/$pid/environ" | sed -n 's/^\\(ISTIO_META_WORKLOAD_NAME\\|INSTANCE\\)=//p')
  [ -n "$name" ] || continue
  for net in $(ip netns identify "$pid"); do
    [ "$net" = "$name" ] || [ -L "/run/netns/$net" ] || ln -sfn "/run/netns/$net" "/run/netns/$name"
  done
done
"""
"""Gives the network namespace of each pod its workload's name, as workloads on machines have it: by the sidecar,
which the mesh tells its name, or by the program, where there is none.  A node that has booted has other namespaces
for its pods than before."""

_OWN = """
own() {
  for p in $(ip netns pids NAME); do
    uid=$(stat -c %u "/proc/$p" 2>/dev/null) && read -r comm 2>/dev/null <"/proc/$p/comm" || continue
    if WHOSE; then echo "$p"; fi
  done
}
"""

_STOP = """
all=$(own)
[ -n "$all" ] || { echo "nothing runs there"; exit 1; }
kill -STOP $all
"""

_STOPPED = """
n=0
for p in $(own); do
  grep -q 'State:.T' "/proc/$p/status" || { echo "process $p is not stopped"; exit 1; }
  n=$((n + 1))
done
echo "the state of $n processes is T (stopped)"
[ $n -gt 0 ]
"""

_AGENT = """
agent() {
  for p in $(own); do
    read -r comm <"/proc/$p/comm" && [ "$comm" = pilot-agent ] && echo "$p"
  done
}
"""

_ANOTHER = """
read -r _ was <FILE
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  now=$(agent)
  if [ -n "$now" ] && [ "$now" != "$was" ]; then break; fi
  sleep 2
done
echo "process $was became $now"
[ -n "$now" ] && [ "$now" != "$was" ]
"""

_YOUNG = """
for p in PIDS; do
  age=$(ps -o etimes= -p "$p") || continue
  [ $age -le 5 ] || { echo "process $p lives"; exit 1; }
done
echo "no process lives for longer than 5 seconds"
"""
"""Whether whatever runs has just begun, and is about to be killed: a round takes an emulated machine a second."""


def pod_broken(kind: FaultKind, node: str, name: str) -> InGuest:
    """The processes of a workload in a pod: its sidecar's, or its program's."""
    of_sidecar = kind.value.startswith("sidecar-")
    what = "sidecar" if of_sidecar else "program"
    # as for machines, which the wait for a workload and what can't stand together go by
    part = f"testbed-{what}@{name}"
    whose = (
        f'[ "$uid" = {SIDECAR_USER} ]' if of_sidecar else f'[ "$uid" != {SIDECAR_USER} ] && [ "$comm" != pause ]'
    )
    own = _OWN.replace("NAME", name).replace("WHOSE", whose)
    first = NAME_PODS + own
    match kind:
        case FaultKind.SIDECAR_HANG | FaultKind.SERVICE_HANG:
            end = f"{own}kill -CONT $(own) 2>/dev/null || true"
            return InGuest(node, first + _STOP, end, own + _STOPPED, part)
        case FaultKind.SIDECAR_RESTART:
            file = f"/run/{part}.fault"
            begin = f'{first}{_AGENT}was=$(agent)\necho "was $was" >{file}\nkill -TERM $was'
            return InGuest(node, begin, f"rm -f {file}", own + _AGENT + _ANOTHER.replace("FILE", file), part)
        case _:
            begin, end = _held_down(f"{what}-{name}", "kill -KILL $(own) 2>/dev/null", own)
            return InGuest(node, NAME_PODS + begin, end, own + _YOUNG.replace("PIDS", "$(own)"), part)


def control_plane_killed(node: str) -> InGuest:
    """istiod on a server, should it run there; the cluster gives it to this one or to another again."""
    begin, end = _held_down("istiod", f"pkill -KILL -x {ISTIOD}")
    active = f"systemctl is-active -q {_unit('istiod')} || {{ echo nobody kills it; exit 1; }}"
    proof = active + _YOUNG.replace("PIDS", f"$(pgrep -x {ISTIOD})")
    return InGuest(node, begin, end, proof, "istiod")


def _held_down(what: str, kill: str, before: str = "") -> tuple[str, str]:
    """Scripts that begin and end a unit which does ``kill`` again and again; ``before`` is what that needs."""
    unit, loop = _unit(what), f"{before}while :; do {kill}; sleep 0.2; done"
    begin = f"{before}systemd-run -q --unit={unit} sh -c {shlex.quote(loop)} && {{ {kill}; true; }}"
    return begin, f"systemctl stop {unit} 2>/dev/null || true"


def _unit(what: str) -> str:
    return f"testbed-fault-{what}"
