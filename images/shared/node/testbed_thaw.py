"""Bring a machine that comes out of a RAM image back into the present, before its services see anything of it.

    testbed_thaw.py    a JSON document on stdin: {"time": seconds since the epoch, "entropy": hex}

Services were stopped before the save (freeze.sh), so they come out of the image stopped.  While everything stands
still the clock is set, the kernel's random numbers are seeded anew, each Envoy's own generator is made to do the
same, and every connection from before the save is closed; only then does anything run.  So nothing is ever
encrypted with a key and a nonce that another restore of the same image uses, too.

Envoy's generator is BoringSSL's.  It notices a fork by a page that the kernel wipes in the child (madvise(2),
MADV_WIPEONFORK), and then seeds itself from the kernel.  Wiping that page from here has the same effect, in
milliseconds, where a restart would take an emulated machine seconds.  A proxy without such a page is restarted.
"""

import contextlib
import ctypes
import fcntl
import glob
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time

SLICES = [f"/sys/fs/cgroup/system.slice/system-testbed\\x2d{kind}.slice" for kind in ("sidecar", "program")]
WATCH = "/run/testbed-freeze.pid"
CLONE_NEWNET = 0x40000000
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207  # linux/random.h
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 4, 20, 21  # linux/sock_diag.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 1, 4, 0x300, 2, 3
LISTEN, CLOSE = 10, 7  # net/tcp_states.h
CONNECTED = 0xFFFFFFFF & ~(1 << LISTEN | 1 << CLOSE)


def set_frozen(value):
    """Stop, or let go on, everything in the services' control groups; returns when it is so."""
    for folder in SLICES:
        if os.path.isdir(folder):
            with open(f"{folder}/cgroup.freeze", "w") as file:
                file.write(str(value))
    limit = time.monotonic() + 10
    while not all(f"frozen {value}" in read(f"{folder}/cgroup.events", f"frozen {value}") for folder in SLICES):
        if time.monotonic() > limit:
            raise TimeoutError(f"services are not {'frozen' if value else 'running'} after 10 s")


def read(path, otherwise=""):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return otherwise


def wake():
    set_frozen(0)
    watch = read(WATCH)
    if watch:
        os.unlink(WATCH)
        with contextlib.suppress(ProcessLookupError):  # it has done its work
            os.killpg(int(watch), 15)


def set_clock(at):
    """``at`` is the host's time when this command was sent; since then Python has started."""
    ticks = int(read("/proc/self/stat").rpartition(")")[2].split()[19])
    since = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    before = time.time()
    time.clock_settime(time.CLOCK_REALTIME, at + since)
    return at + since - before


def seed(entropy):
    """Mix ``entropy`` into the kernel's pool and seed its generator from it at once (random(4))."""
    with open("/dev/urandom", "wb") as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy)
        fcntl.ioctl(device, RNDRESEEDCRNG)


def generators():
    """Have each Envoy seed its generator anew; (how many did, names of those to restart)."""
    done, left = 0, []
    for path in glob.glob(f"{SLICES[0]}/*.service"):
        wiped = 0
        for pid in read(f"{path}/cgroup.procs").split():
            for start, end in wiped_on_fork(pid):
                with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
                    memory.seek(start)
                    wiped += memory.write(bytes(end - start))
        done += bool(wiped)
        if not wiped:
            left.append(os.path.basename(path))
    return done, left


def wiped_on_fork(pid):
    area = None
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if line.startswith("VmFlags:"):
                if " wf" in line:
                    yield area
            elif found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                area = int(found[1], 16), int(found[2], 16)


def close_connections(keep):
    """Close every TCP connection of the calling thread's namespace, except with ``keep`` as a port; how many."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(10)
        closed = 0
        for family in (socket.AF_INET, socket.AF_INET6):
            request = struct.pack("=BBBBI48s", family, socket.IPPROTO_TCP, 0, 0, CONNECTED, b"")
            found = list(exchange(netlink, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request))
            for message in found:
                state, identity = message[1], message[4:52]
                if state in (LISTEN, CLOSE) or keep in struct.unpack_from(">HH", identity):
                    continue
                request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 1 << state) + identity
                for _ in exchange(netlink, SOCK_DESTROY, NLM_F_ACK, request):
                    pass
                closed += 1
        return closed


def exchange(netlink, kind, flags, request):
    """Send one netlink request and yield the bodies of what comes back; OSError when it is refused."""
    netlink.send(struct.pack("=IHHII", 16 + len(request), kind, NLM_F_REQUEST | flags, 1, 0) + request)
    while True:
        data = netlink.recv(1 << 16)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            body, data = data[16:size], data[(size + 3) & ~3 :]
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                number = -struct.unpack_from("=i", body)[0]
                if number in (0, 2):  # done; or gone by itself (ENOENT)
                    return
                raise OSError(number, os.strerror(number))
            yield body


def everywhere(work):
    """``work`` in every network namespace of this node, each in a thread of its own; the sum."""
    results, errors = [], []

    def run(path):
        try:
            if path:
                with open(path) as handle:
                    if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), f"can't enter {path}")
            results.append(work())
        except OSError as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(path,)) for path in ["", *glob.glob("/run/netns/*")]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(results)


def thaw(document):
    set_frozen(1)  # an image of a machine that had been let go on: no harm in asking again
    own = int(os.environ.get("SSH_CONNECTION", "0 0").split()[1])
    moved = set_clock(document["time"])
    seed(bytes.fromhex(document["entropy"]))
    seeded, restart = generators()
    closed = everywhere(lambda: close_connections(own))
    wake()
    if restart:
        subprocess.run(["systemctl", "restart", *restart], check=True)
    return {"clock": round(moved, 3), "seeded": seeded, "restarted": len(restart), "closed": closed}


def run():
    try:
        print(json.dumps(thaw(json.load(sys.stdin))))
    except (OSError, ValueError, KeyError) as e:
        sys.exit(f"testbed_thaw: {e}")


if __name__ == "__main__":
    run()
