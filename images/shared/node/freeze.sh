#!/bin/sh
# freeze.sh on|off [SECONDS]: stop this node's services where they are, for a snapshot, or let them go on; before
# that the clock, which stood still with the machine, is set to SECONDS since the epoch.
# Whoever asked may die before it says "off": after two minutes of the machine's own time they go on by themselves.
# Nothing but a shell: each further process costs an emulated machine a tenth of a second.
set -u
folders='/sys/fs/cgroup/system.slice/system-testbed*.slice'
watch=/run/testbed-freeze.pid
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
stop_watch() {
    if [ -e $watch ]; then
        read -r pid <$watch
        kill -- "-$pid" 2>/dev/null
        rm -f $watch
    fi
}
case ${1:-} in
on)
    stop_watch
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
    stop_watch
    ;;
*)
    echo "usage: freeze.sh on|off [SECONDS]" >&2
    exit 2
    ;;
esac
