#!/bin/sh
# freeze.sh ready|off [SECONDS]: make this node ready for a snapshot, for which testbed_thaw.py then stops its services;
# or let them go on where that program is no more.  Where they stand, the clock stood still with the machine before
# that: it is set to SECONDS since the epoch, unless that would set it back.
# With the services stopped, testbed_thaw.py waits in the image for what is to be done after a restore.
# Whoever asked may die before it lets them go on: after two minutes of the machine's own time they do by themselves.
# Nothing but a shell: each further process costs an emulated machine a tenth of a second.
set -u
# no more than what a thaw lets go on: a namespace could not be made any more in a group that stays frozen
groups=/sys/fs/cgroup
slices=$groups/system.slice/system-testbed
folders="$slices*sidecar.slice $slices*program.slice $groups/kubepods.slice $groups/kubepods"
folders="$folders $groups/system.slice/k3s.service $groups/system.slice/k3s-agent.service"
folders="$folders $groups/system.slice/keepalived.service"
watch=/run/testbed-freeze.pid
standing=/run/testbed-freeze.standing
thaw=/run/testbed-thaw
program="import sys; sys.path.insert(0, '/opt/testbed/node'); import testbed_thaw; testbed_thaw.stay()"
# When process $1 began, in ticks, as $begun; empty when there is none: pids recur (proc(5))
look_up() {
    begun=
    read -r line 2>/dev/null </proc/"$1"/stat || return
    set -- ${line##*)}
    shift 19
    begun=$1
}
note() {
    look_up "$1"
    echo "$1 $begun" >"$2"
}
stop() {
    if [ -e "$1" ]; then
        read -r pid noted <"$1"
        look_up "$pid"
        if [ -n "$begun" ] && [ "$begun" = "$noted" ]; then kill -- "-$pid" 2>/dev/null; fi
        rm -f "$1"
    fi
}
start_thaw() {
    stop $thaw.pid
    rm -f $thaw.ready
    mkfifo -m 600 $thaw.ready
    setsid python3 -ISE -X pycache_prefix=/run/testbed-pycache -c "$program" >/dev/null 2>$thaw.log </dev/null &
    note $! $thaw.pid
    read -r ready <$thaw.ready
}
case ${1:-} in
ready)
    start_thaw
    # What no process has mapped is left out of the image: pages that are free in large blocks are told to the
    # hypervisor (free page reporting), two seconds later.
    echo 1 >/proc/sys/vm/drop_caches
    echo 1 >/proc/sys/vm/compact_memory
    sleep 3
    stop $watch
    setsid sh -c "sleep 120; for f in $folders; do echo 0 >\$f/cgroup.freeze; done; rm -f $standing" >/dev/null 2>&1 </dev/null &
    note $! $watch
    ;;
off)
    if [ -e $standing ]; then
        now=$(date +%s)
        if [ -n "${2:-}" ] && [ "${2%.*}" -gt "$now" ]; then date -s "@$2" >/dev/null; fi
        for folder in $folders; do
            if [ -e "$folder/cgroup.freeze" ]; then echo 0 >"$folder/cgroup.freeze"; fi
        done
        rm -f $standing
    fi
    stop $watch
    stop $thaw.pid
    ;;
*)
    echo "usage: freeze.sh ready|off [SECONDS]" >&2
    exit 2
    ;;
esac
