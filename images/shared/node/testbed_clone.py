"""Wait in a template's RAM image, and make each machine that comes out of it the node that its seed disk says.

Started over SSH on a machine without workloads, it takes away what tells that machine from others: the SSH daemon
with its keys, connections, addresses, the node's name.  Then it says on the serial console that the machine can be
saved, and looks at the seed disk again and again: a clone wakes up with another one, of its own.

The kernel's random numbers are seeded from that disk before the SSH daemon is started, so no two clones share a
key exchange.  A network card keeps the MAC that it was saved with until the guest sets another one, which is what
happens here; once the machine is switched off, it has the MAC of its definition, which is the same.
"""

import ctypes
import fcntl
import ipaddress
import json
import os
import signal
import socket
import struct
import subprocess
import time

import testbed_thaw

SEED, MOUNT = "/dev/vdb", "/run/seed"
FILES = {  # on the seed disk, as usr/lib/testbed/seed of the image has them
    "machine-id": ("/etc/machine-id", 0o444),
    "hostname": ("/etc/hostname", 0o644),
    "host_key": ("/etc/ssh/ssh_host_ed25519_key", 0o600),
    "host_key.pub": ("/etc/ssh/ssh_host_ed25519_key.pub", 0o644),
    "authorized_keys": ("/root/.ssh/authorized_keys", 0o600),
    "network": ("/etc/testbed/network", 0o644),
    "node.json": ("/etc/testbed/node.json", 0o644),
}
CARDS = {"management": ("eth0", b"\x52\x54"), "mesh": ("eth1", b"\x52\x56")}  # a MAC spells its address
PAUSE = 0.05  # seconds
BLKFLSBUF = 0x1261  # linux/fs.h
MS_RDONLY = 1
RTM_NEWLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE = 16, 20, 21, 24  # linux/rtnetlink.h
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFLA_ADDRESS, RTA_OIF, RTA_GATEWAY = 1, 2, 4, 1, 4, 5
IFF_UP = 1


def stay():
    os.sync()
    for name in ("drop_caches", "compact_memory"):
        with open(f"/proc/sys/vm/{name}", "w") as file:
            file.write("1")
    told = time.monotonic() + 2.5  # what is free is told to the hypervisor two seconds later
    forget()
    os.sync()
    time.sleep(max(0, told - time.monotonic()))
    before = seed_disk()
    say("this machine is a template")
    while seed_disk() == before:
        time.sleep(PAUSE)
    become()
    say(f"this machine is {socket.gethostname()}")
    serve_once()


def say(what):
    with open("/dev/console", "w") as console:
        console.write(f"testbed: {what}\n")


def seed_disk():
    """What is on the seed disk, and not what is remembered of it."""
    with open(SEED, "rb") as device:
        fcntl.ioctl(device, BLKFLSBUF)
        return device.read()


def forget():
    subprocess.run(["systemctl", "stop", "ssh"], check=True)
    limit = time.monotonic() + 10
    while " 01 " in testbed_thaw.read("/proc/net/tcp") and time.monotonic() < limit:
        time.sleep(PAUSE)  # who started this hangs up
    testbed_thaw.close_connections()
    for role, interface in identity().items():
        name = CARDS[role][0]
        address(RTM_DELADDR, name, interface)
        set_card(name, 0)
    for path, _ in FILES.values():
        if path != "/etc/machine-id":  # a machine always has one
            os.unlink(path)


def become():
    files = seed_files()
    testbed_thaw.seed(files.pop("entropy"))
    template = testbed_thaw.read("/etc/machine-id").strip()
    for name, content in files.items():
        path, mode = FILES[name]
        with open(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        os.chmod(f"{path}.new", mode)
        os.rename(f"{path}.new", path)
    socket.sethostname(files["hostname"].decode().strip())
    subprocess.run(["systemctl", "--no-block", "start", "ssh"], check=True)
    for role, interface in identity().items():
        name, prefix = CARDS[role]
        set_card(name, 0, prefix + interface.ip.packed)
        address(RTM_NEWADDR, name, interface)
        set_card(name, IFF_UP)
        if role == "management":
            gateway = interface.network.network_address + 1
            default_route(name, gateway)
            greet(gateway)
    # journald goes on in the folder that it has open; who reads looks for one with the new id in its name
    os.symlink(template, f"/run/log/journal/{files['machine-id'].decode().strip()}")


def seed_files():
    libc = ctypes.CDLL(None, use_errno=True)
    os.makedirs(MOUNT, exist_ok=True)
    if libc.mount(SEED.encode(), MOUNT.encode(), b"iso9660", MS_RDONLY, None):
        raise OSError(ctypes.get_errno(), f"can't mount {SEED}")
    try:
        found = {}
        for name in [*FILES, "entropy"]:
            with open(f"{MOUNT}/testbed/{name}", "rb") as file:
                found[name] = file.read()
    finally:
        libc.umount(MOUNT.encode())
        os.rmdir(MOUNT)
    return found


def identity():
    """Role -> the address that this node has in that network."""
    node = json.loads(testbed_thaw.read("/etc/testbed/node.json"))
    return {role: ipaddress.IPv4Interface(node[role]) for role in CARDS}


# rtnetlink(7): a process for each of these costs an emulated machine a tenth of a second


def set_card(name, flags, mac=b""):
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, socket.if_nametoindex(name), flags, IFF_UP)
    ask(RTM_NEWLINK, body + (attribute(IFLA_ADDRESS, mac) if mac else b""))


def address(kind, name, interface):
    ip, network = interface.ip.packed, interface.network
    body = struct.pack("=BBBBI", socket.AF_INET, network.prefixlen, 0, 0, socket.if_nametoindex(name))
    body += attribute(IFA_LOCAL, ip) + attribute(IFA_ADDRESS, ip)
    ask(kind, body + attribute(IFA_BROADCAST, network.broadcast_address.packed))


def default_route(name, gateway):
    # to anywhere (0 bits), in the main table (254), set up at boot (3), of unicast (1)
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0)
    body += attribute(RTA_OIF, struct.pack("=I", socket.if_nametoindex(name)))
    ask(RTM_NEWROUTE, body + attribute(RTA_GATEWAY, gateway.packed))


def greet(gateway):
    """Have the host learn where this address is, which it has been asking for: else it asks again in a second."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"", (str(gateway), 9))  # discard


def attribute(kind, value):
    return (struct.pack("=HH", 4 + len(value), kind) + value).ljust(-(-len(value) // 4) * 4 + 4, b"\0")


def ask(kind, body):
    flags = testbed_thaw.NLM_F_REQUEST | testbed_thaw.NLM_F_ACK
    if kind in (RTM_NEWADDR, RTM_NEWROUTE):
        flags |= 0x400  # NLM_F_CREATE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(10)
        for _ in testbed_thaw.exchange(netlink, kind, flags, body):
            pass


def serve_once():
    """Be thawed: the host sets the clock, which stands where the template was saved."""
    signal.alarm(testbed_thaw.LIFE)
    with socket.create_server(("127.0.0.1", testbed_thaw.PORT)) as listener:
        testbed_thaw.serve(listener.accept()[0], [])


if __name__ == "__main__":
    stay()
