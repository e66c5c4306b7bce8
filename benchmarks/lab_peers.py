"""The same machines, started as users of another program start them: `python benchmarks/lab_peers.py [INVENTORY]`.

`virt-install --import`, one machine after another, with its own defaults for the hardware (but for the disks' bus:
the image knows virtio only), on overlays over the disk and the kernel of `up`; each is waited for until it answers
on SSH.  `benchmarks/lab_speed.py` has what `up` takes ("cold ready", "clones ready").

vagrant (with vagrant-libvirt) and kcli are not measured: both look for a machine's address among libvirt's DHCP
leases, and machines of this image have fixed addresses and ask for none.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
import time

from testbed.hypervisor.machines import create_overlay
from testbed.hypervisor.xml import domain_name
from testbed.images import kernel_arguments
from testbed.lab.lab import Lab
from testbed.lab.machines import MANAGEMENT, MESH, Machines
from testbed.workflows.loading import load_lab
from testbed.workflows.planning import machines_of


def install(lab: Lab, machines: Machines, node: str) -> float:
    """Seconds until a machine that `virt-install` made answers."""
    began = time.monotonic()
    definition = machines.definition(node)
    image = machines.disks.node_image
    create_overlay(definition.disk, image.disk, image.format, machines.disk_size(node))
    machines.lay_seed(node)
    boot = f"kernel={image.kernel},initrd={image.initrd},kernel_args={kernel_arguments()}"
    nics = [f"network={nic.network},mac={nic.mac},model=virtio" for nic in definition.nics]
    argv = [
        "virt-install", "--connect", lab.daemon.uri, "--import", "--noautoconsole", "--graphics", "none", "--quiet",
        "--name", domain_name(lab.id, node), "--memory", str(definition.memory // 2**20), "--vcpus", "1",
        "--osinfo", "detect=off,require=off", "--boot", boot, "--disk", f"path={definition.disk},bus=virtio",
        "--disk", f"path={definition.seed},bus=virtio,readonly=on",
        "--disk", f"path={definition.shared},bus=virtio,readonly=on",
        *(word for nic in nics for word in ("--network", nic)),
    ]  # fmt: skip
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    machines.wait(node, threading.Event())
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inventory", nargs="?", default="bookinfo")
    options = parser.parse_args()
    if shutil.which("virt-install") is None:
        sys.exit("there is no virt-install here: apt-get install virtinst")
    with load_lab(options.inventory).closing() as lab:
        machines = machines_of(lab)
        machines.disks.build_image()
        machines.disks.build_shared()
        lab.directories.create()
        lab.daemon.start()
        try:
            for role in (MANAGEMENT, MESH):
                machines.define_network(role)
            began = time.monotonic()
            for node in (n.name for n in lab.inventory.nodes):
                print(f"{node:<12}{install(lab, machines, node):>8.1f}", flush=True)
            print(f"all         {time.monotonic() - began:>8.1f}")
            print("vagrant, kcli: not measured: they find machines by DHCP leases, and this image asks for none")
        finally:
            lab.close()
            lab.daemon.stop()
            lab.directories.remove()


if __name__ == "__main__":
    main()
