#!/usr/bin/env python3
"""Make this node run the workloads that /etc/testbed/workloads.json lists, or say what it runs.

    testbed_node.py converge   make it so; prints what changed, as JSON
    testbed_node.py status     prints units, their states and what was last converged to

workloads.json is a list of objects: name, service, version, namespace, address and prefix (in the mesh network),
gateway (true: no redirection, no program), program (a file in /opt/testbed/programs without .py; "none": none),
ports (what it listens on), env (more environment for the program), routes (pairs of a network and its next hop).

For each workload there are files in /etc/testbed/workloads/NAME and three units: testbed-netns@ (the namespace, its
macvlan on the mesh NIC, the redirection), testbed-sidecar@ and testbed-program@.  The units need only those files,
so after a reboot systemd brings everything back without this program.  With --root only files are written.
"""

import hashlib
import ipaddress
import json
import os
import re
import subprocess
import sys

SERVICE_RANGE = "240.240.0.0/16"
MESH_NIC = "eth1"
UNITS = ("netns", "sidecar", "program")
HERE = os.path.dirname(os.path.abspath(__file__))
NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


class Refused(Exception):
    """workloads.json says something that can't be done."""


def mac(address):
    """A workload's MAC spells its address, so that a node that is rebuilt shows the same one."""
    return ":".join(["52:58", *(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)])


def has_program(workload):
    """Whether anything runs beside the sidecar."""
    return not workload.get("gateway") and workload.get("program", "none") not in ("", "none")


def quoted(value):
    """A value for systemd's EnvironmentFile."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
    return f'"{text}"'


def files_of(workload, node, redirect):
    """File name -> text of what the units of a workload need."""
    name, prefix = workload["name"], workload.get("prefix", 24)
    interface = ipaddress.IPv4Interface(f"{workload['address']}/{prefix}")
    router = interface.network.network_address + 1
    made = f"w{interface.ip.packed.hex()}"  # the kernel wants a name to be free here as well as there
    kind = "type macvlan mode bridge"
    links = (
        f"netns add {name}\nlink add link {MESH_NIC} name {made} address {mac(interface.ip)} netns {name} {kind}\n"
    )
    addresses = [
        "link set lo up",
        f"link set {made} name eth0",
        f"address add {interface} dev eth0",
        "link set eth0 up",
        # without a route a connection fails before it can be redirected
        f"route add {SERVICE_RANGE} dev eth0",
        f"route add default via {router}",
        *(f"route add {network} via {hop}" for network, hop in workload.get("routes", [])),
    ]
    ports = [str(port) for port in workload.get("ports", [])]
    environment = {
        "SERVICE": workload.get("service", ""),
        "VERSION": workload.get("version", ""),
        "NAMESPACE": workload.get("namespace", "default"),
        "INSTANCE": name,
        "NODE": node,
        "PORT": ports[0] if ports else "",
        "PORTS": ",".join(ports),
        "PROGRAM": workload.get("program", "none"),
        **workload.get("env", {}),
    }
    return {
        "links": links,
        "addresses": "".join(f"{line}\n" for line in addresses),
        "redirect.nft": "# a gateway is called directly\n" if workload.get("gateway") else redirect,
        "env": "".join(f"{key}={quoted(value)}\n" for key, value in environment.items()),
    }


class Node:
    """This machine; with another ``root`` than /, a folder that looks like one."""

    def __init__(self, root="/"):
        self.root = root
        self.live = root == "/"
        self.wanted_path = self.path("etc/testbed/workloads.json")
        self.applied_path = self.path("etc/testbed/workloads.applied")
        self.folder = self.path("etc/testbed/workloads")
        self.units_folder = self.path("etc/systemd/system")

    def path(self, relative):
        return os.path.join(self.root, relative)

    def read(self, path):
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, path, text):
        """By rename: a machine may lose its power at any time."""
        temporary = f"{path}.new"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def name(self):
        return json.loads(self.read(self.path("etc/testbed/node.json")) or "{}").get("node", os.uname().nodename)

    def systemctl(self, *arguments, check=True):
        if not self.live:
            return ""
        done = subprocess.run(["systemctl", *arguments], check=False, capture_output=True, text=True)
        if check and done.returncode:
            raise Refused(f"systemctl {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def existing(self):
        return sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []

    def wanted(self):
        """(digest of the file, workloads by name)."""
        text = self.read(self.wanted_path)
        if text is None:
            return "", {}
        workloads, listed = {}, json.loads(text)
        if not isinstance(listed, list) or not all(isinstance(workload, dict) for workload in listed):
            raise Refused(f"{self.wanted_path} is no list of workloads")
        for workload in listed:
            name = workload.get("name", "")
            if not NAME.fullmatch(name):
                raise Refused(f"{name!r} is no name of a workload")
            if name in workloads:
                raise Refused(f"the workload {name} is listed twice")
            workloads[name] = workload
        return hashlib.sha256(text.encode()).hexdigest(), workloads

    def states(self, names):
        """Unit -> its ActiveState."""
        units = [f"testbed-{kind}@{name}.service" for name in names for kind in UNITS]
        if not units or not self.live:
            return {}
        states, current = {}, {}
        for line in [*self.systemctl("show", "--property=Id,ActiveState", *units, check=False).splitlines(), ""]:
            key, _, value = line.partition("=")
            if key:
                current[key] = value
            elif current:
                states[current["Id"]] = current["ActiveState"]
                current = {}
        return states

    def link_unit(self, kind, name, present):
        """Enable or disable a unit, without a reload: systemd reads these links when it boots."""
        link = os.path.join(self.units_folder, "multi-user.target.wants", f"testbed-{kind}@{name}.service")
        if present and not os.path.islink(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(f"/etc/systemd/system/testbed-{kind}@.service", link)
        elif not present and os.path.islink(link):
            os.unlink(link)

    def remove(self, name):
        self.systemctl("stop", *(f"testbed-{kind}@{name}.service" for kind in reversed(UNITS)), check=False)
        for kind in UNITS:
            self.link_unit(kind, name, False)
        proxies = self.path("etc/testbed/proxies")
        subprocess.run(
            ["rm", "-rf", "--", os.path.join(self.folder, name), os.path.join(proxies, name)], check=True
        )

    def update(self, workload, redirect, states):
        """Write a workload's files and links; (what changed, units to restart, units to start)."""
        name = workload["name"]
        folder = os.path.join(self.folder, name)
        is_new = not os.path.isdir(folder)
        os.makedirs(folder, exist_ok=True)
        changed = []
        for file, text in files_of(workload, self.node, redirect).items():
            path = os.path.join(folder, file)
            if self.read(path) != text:
                self.write(path, text)
                changed.append(file)
        runs = has_program(workload)
        for kind in UNITS:
            self.link_unit(kind, name, runs or kind != "program")
        unit = {kind: f"testbed-{kind}@{name}.service" for kind in UNITS}
        restart = []
        if not is_new and set(changed) - {"env"}:
            restart = [unit["netns"]]  # what is bound to it restarts with it
        elif not is_new and "env" in changed and runs:
            restart = [unit["program"]]
        start = [unit["netns"], *([unit["program"]] if runs else [])]
        if os.path.exists(self.path(f"etc/testbed/proxies/{name}/bootstrap.json")):
            start.append(unit["sidecar"])
        if not runs and states.get(unit["program"]) == "active":
            self.systemctl("stop", unit["program"])
        start = [u for u in start if states.get(u) != "active" or u in restart or (restart and u != unit["netns"])]
        return ("created" if is_new else "updated" if changed else ""), restart, start

    def converge(self):
        digest, wanted = self.wanted()
        self.node = self.name()
        redirect = self.read(os.path.join(HERE, "redirect.nft"))
        report = {"created": [], "updated": [], "removed": [], "started": [], "digest": digest}
        for name in self.existing():
            if name not in wanted:
                self.remove(name)
                report["removed"].append(name)
        states = self.states(wanted)
        restart, start = [], []
        for workload in wanted.values():
            what, restarts, starts = self.update(workload, redirect, states)
            if what:
                report[what].append(workload["name"])
            restart += restarts
            start += starts
        if restart:
            self.systemctl("restart", *restart)
        if start:
            self.systemctl("start", *start)
        report["started"] = [unit.removesuffix(".service") for unit in start]
        if self.read(self.applied_path) != digest:
            self.write(self.applied_path, digest)
        return report

    def status(self):
        digest, wanted = self.wanted()
        names = sorted({*wanted, *self.existing()})
        states = self.states(names)
        workloads = {
            name: {
                "wanted": name in wanted,
                "namespace": os.path.exists(self.path(f"run/netns/{name}")),
                "units": {kind: states.get(f"testbed-{kind}@{name}.service", "unknown") for kind in UNITS},
            }
            for name in names
        }
        return {"digest": digest, "applied": self.read(self.applied_path) or "", "workloads": workloads}


def main():
    command, *options = sys.argv[1:] or [""]  # argparse takes longer to load than all of this to run
    if command not in ("converge", "status") or options[:1] not in ([], ["--root"]) or len(options) not in (0, 2):
        sys.exit(__doc__)
    try:
        node = Node(options[1] if options else "/")
        print(json.dumps(node.converge() if command == "converge" else node.status()))
    except (Refused, OSError, ValueError, KeyError, TypeError) as e:
        sys.exit(f"testbed_node: {command}: {e}")


if __name__ == "__main__":
    main()
