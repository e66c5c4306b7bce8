#!/bin/sh
# freeze.sh on|off [SECONDS]: stop this node's services where they are, for a snapshot, or let them go on; before
# that the clock, which stood still with the machine, is set to SECONDS since the epoch.
# With the services stopped, testbed_thaw.py waits in the image for what is to be done after a restore.
# Whoever asked may die before it says "off": after two minutes of the machine's own time they go on by themselves.
# Nothing but a shell: each further process costs an emulated machine a tenth of a second.
set -u
# no more than what a thaw lets go on: a namespace could not be made any more in a group that stays frozen
slices=/sys/fs/cgroup/system.slice/system-testbed
folders="$slices*sidecar.slice $slices*program.slice"
watch=/run/testbed-freeze.pid
thaw=/run/testbed-thaw
program="import sys; sys.path.insert(0, '/opt/testbed/node'); import testbed_thaw; testbed_thaw.stay()"
each() {
    for folder in $folders; do
        if [ -e "$folder/cgroup.freeze" ]; then echo "$1" >"$folder/cgroup.freeze"; fi
    done
}
settled() {
    for folder in $folders; do
        [ -e "$folder/cgroup.events" ] || continue
        while read -r key value; do
            if [ "$key" = frozen ] && [ "$value" != "$1" ]; then return 1; fi
        done <"$folder/cgroup.events"
    done
}
stop() {
    if [ -e "$1" ]; then
        read -r pid <"$1"
        kill -- "-$pid" 2>/dev/null
        rm -f "$1"
    fi
}
start_thaw() {
    stop $thaw.pid
    rm -f $thaw.ready
    mkfifo -m 600 $thaw.ready
    setsid python3 -ISE -X pycache_prefix=/run/testbed-pycache -c "$program" >/dev/null 2>$thaw.log </dev/null &
    echo $! >$thaw.pid
    read -r ready <$thaw.ready
}
case ${1:-} in
on)
    start_thaw
    # What no process has mapped is left out of the image: pages that are free in large blocks are told to the
    # hypervisor (free page reporting), two seconds later.
    echo 1 >/proc/sys/vm/drop_caches
    echo 1 >/proc/sys/vm/compact_memory
    sleep 3
    if [ ! -d "/proc/$PPID" ]; then # nobody is there any more to say "off"
        stop $thaw.pid
        exit 1
    fi
    stop $watch
    setsid sh -c "sleep 120; for f in $folders; do echo 0 >\$f/cgroup.freeze; done" >/dev/null 2>&1 </dev/null &
    echo $! >$watch
    each 1
    tries=0
    until settled 1; do
        tries=$((tries + 1))
        if [ $tries -gt 20000 ]; then
            echo "services are still running" >&2
            each 0
            exit 1
        fi
    done
    ;;
off)
    if [ -n "${2:-}" ]; then date -s "@$2" >/dev/null; fi
    each 0
    stop $watch
    stop $thaw.pid
    ;;
*)
    echo "usage: freeze.sh on|off [SECONDS]" >&2
    exit 2
    ;;
esac
