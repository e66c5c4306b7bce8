"""Bring a machine that comes out of a RAM image back into the present, before its services see anything of it.

Started before a save (freeze.sh), it waits in the image: after a restore nothing has to be started, which on an
emulated machine takes longer than the work.  It answers on a port of the loopback, which SSH leads to without
starting anything either; a connection brings one request, up to its end, and takes the answer:

    {"do": "freeze"}                                   before a save: stop the services where they are
    {"do": "go on", "time": seconds since the epoch}   after it, where the machine goes on; the last request
    {"do": "thaw", "time": ..., "entropy": hex, "keep": the far port of the SSH connection}   after a restore
    {"do": "look", ...} (see testbed_look), {"do": "edges", ...} (see testbed_edges); these two at the same time

Services were stopped before the save, so they come out of the image stopped.  While everything stands
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
import signal
import socket
import struct
import subprocess
import threading
import time

import testbed_edges
import testbed_look

GROUPS = "/sys/fs/cgroup"
SIDECARS, PROGRAMS = (f"{GROUPS}/system.slice/system-testbed\\x2d{kind}.slice" for kind in ("sidecar", "program"))
# a node of a cluster: pods first, then whoever watches over them, and the address that moves with the API
PODS = [f"{GROUPS}/kubepods.slice", f"{GROUPS}/kubepods"]  # the kubelet's, with systemd's driver or without
SLICES = [SIDECARS, PROGRAMS, *PODS]
SLICES += [f"{GROUPS}/system.slice/{unit}.service" for unit in ("k3s", "k3s-agent", "keepalived")]
WATCH = "/run/testbed-freeze.pid"
STANDING = "/run/testbed-freeze.standing"
PORT = 15099  # of the machine's own loopback; workloads have others
READY = "/run/testbed-thaw.ready"
LIFE = 300  # seconds of the machine's own time that nobody has to be waited for longer
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


def freeze():
    """Stop the services; that they stand is written down for whoever comes after a save that was killed."""
    with open(STANDING, "w") as file:
        file.write("1\n")
    try:
        set_frozen(1)
    except TimeoutError:
        wake()
        raise


def wake():
    set_frozen(0)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(STANDING)
    if watch := read(WATCH).split():
        os.unlink(WATCH)
        # the numbers of processes recur: it is the one that was noted if it began when that did (proc(5))
        began = read(f"/proc/{watch[0]}/stat").rpartition(")")[2].split()[19:20]
        if began == watch[1:]:
            with contextlib.suppress(ProcessLookupError):  # it has done its work
                os.killpg(int(watch[0]), 15)


def set_clock(at):
    """``at`` is the host's time when this was sent, a moment ago."""
    before = time.time()
    time.clock_settime(time.CLOCK_REALTIME, at)
    return at - before


def go_on(document):
    """The machine has stood still for a save, and its clock with it; one that is ahead is not set back."""
    begun = time.monotonic()
    moved = set_clock(document["time"]) if document["time"] > time.time() else 0.0
    wake()
    return {"clock": round(moved, 3), "seconds": round(time.monotonic() - begun, 3)}


def seed(entropy):
    """Mix ``entropy`` into the kernel's pool and seed its generator from it at once (random(4))."""
    with open("/dev/urandom", "wb") as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy)
        fcntl.ioctl(device, RNDRESEEDCRNG)


def generators():
    """Where each proxy's generator notices a fork: (unit, or process of a pod, [(pid, start, end)]).

    Asked before the save, when it costs nobody anything: what is frozen then is the same after a restore.
    """
    found = []
    for path in glob.glob(f"{SIDECARS}/*.service"):
        pages = [(pid, *area) for pid in read(f"{path}/cgroup.procs").split() for area in wiped_on_fork(pid)]
        found.append((os.path.basename(path), pages))
    for pid in in_pods("envoy"):
        found.append((pid, [(pid, *area) for area in wiped_on_fork(pid)]))
    return found


def in_pods(name):
    """Numbers of the processes of that name in pods (Go's programs have the kernel's random numbers)."""
    for top in PODS:
        for folder, _, files in os.walk(top):
            pids = read(f"{folder}/cgroup.procs").split() if "cgroup.procs" in files else []
            yield from (pid for pid in pids if read(f"/proc/{pid}/comm").strip() == name)


def reseed(found):
    """Have each proxy seed its generator anew when it next needs a number; those that have to be restarted."""
    left = []
    for name, pages in found:
        done = False
        with contextlib.suppress(OSError):  # it is no more, and whatever runs in its place was not looked at
            for pid, start, end in pages:
                with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
                    memory.seek(start)
                    done = memory.write(bytes(end - start)) > 0
        if not done:
            left.append(name)
    return left


def wiped_on_fork(pid):
    area = None
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if line.startswith("VmFlags:"):
                if " wf" in line:
                    yield area
            elif found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                area = int(found[1], 16), int(found[2], 16)


def close_connections(*keep):
    """Close every TCP connection of the calling thread's namespace without a port in ``keep``; how many."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(10)
        closed = 0
        for family in (socket.AF_INET, socket.AF_INET6):
            request = struct.pack("=BBBBI48s", family, socket.IPPROTO_TCP, 0, 0, CONNECTED, b"")
            found = list(exchange(netlink, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request))
            for message in found:
                state, identity = message[1], message[4:52]
                if state in (LISTEN, CLOSE) or set(keep) & set(struct.unpack_from(">HH", identity)):
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

    # a pod's namespace has a second name, which may be left over from another pod
    paths = [path for path in glob.glob("/run/netns/*") if not os.path.islink(path)]
    threads = [threading.Thread(target=run, args=(path,)) for path in ["", *paths]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(results)


def thaw(document, pages):
    begun = time.monotonic()
    set_frozen(1)  # it is, unless the two minutes of the watch have passed
    moved = set_clock(document["time"])
    seed(bytes.fromhex(document["entropy"]))
    restart = reseed(pages)
    closed = everywhere(lambda: close_connections(document["keep"], PORT))
    wake()
    for pid in filter(str.isdigit, restart):  # of a pod: its kubelet starts it anew
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    if units := [name for name in restart if not name.isdigit()]:
        subprocess.run(["systemctl", "restart", *units], check=True)
    return {
        "clock": round(moved, 3),
        "seeded": len(pages) - len(restart),
        "restarted": len(restart),
        "closed": closed,
        "seconds": round(time.monotonic() - begun, 3),
    }


def answer(document, pages):
    if document["do"] == "edges":
        return testbed_edges.ask_all(document)
    if document["do"] == "look":
        return testbed_look.look(document)
    if document["do"] == "freeze":
        freeze()
        return {}
    if document["do"] == "go on":
        return go_on(document)
    return thaw(document, pages)


def serve(connection, pages):
    """Answer one request; ends the program with the last one."""
    document = {}
    with connection:
        request = b"".join(iter(lambda: connection.recv(65536), b""))
        try:
            document = json.loads(request)
            said = answer(document, pages)
        except Exception as e:  # noqa: BLE001 - whoever asked has to hear of it, whatever it is
            said = {"failed": f"{type(e).__name__}: {e}"}
        with contextlib.suppress(OSError):  # whoever asked is gone
            connection.sendall(json.dumps(said).encode())
    if document.get("do") == "go on":
        os._exit(0)


def stay():
    """Wait for requests; begin when everything that they need has been loaded."""
    pages = generators()
    signal.alarm(LIFE)
    with socket.create_server(("127.0.0.1", PORT)) as listener:
        with open(READY, "w") as file:
            file.write("ready\n")
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0], pages)).start()


if __name__ == "__main__":
    stay()
