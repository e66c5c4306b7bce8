"""How long a lab takes to be there: `python benchmarks/lab_speed.py [INVENTORY] [--runs N] [--peer]`.

In one run, side by side: a cold `up`, a warm one, `reset`, and a snapshot (the pause, and all of it), each several
times.  Beside it what no program can be quicker than: reading the images' bytes from this disk, and the processor
time that the machines use from when their RAM is loaded until every edge has answered.  With `--peer` as many
machines from the same disk are started one by one with `virt-install --import`, as its users would.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from testbed.host import processes
from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories
from testbed.host.namespaces import LabNetwork, command_in
from testbed.images import kernel_arguments
from testbed.lab.disks import Disks
from testbed.waiting import NotYet, wait_until
from testbed.workflows.loading import load_lab

COMMAND = [sys.executable, "-c", "from testbed.cli import main; main()"]
NAME = "benchmark"


def testbed(*arguments: str) -> str:
    """Run a command; its output."""
    return subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def timed(*arguments: str) -> tuple[float, dict]:
    """A command's seconds, from its start to its end, and its report."""
    began = time.monotonic()
    report = json.loads(testbed(*arguments, "--json"))
    return time.monotonic() - began, report


def cpu_seconds(lab_id: str) -> float:
    """What the machines' emulators have used so far."""
    ticks = 0
    for process in processes.of_lab(LabDirectories(lab_id).state):
        if process.name.startswith("qemu-"):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def read_seconds(files: list[Path]) -> float:
    """To read them from the disk, one after another, with nothing of them in memory."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.monotonic()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 22):
                pass
    return time.monotonic() - began


def measure(inventory: str, lab_id: str) -> dict[str, float]:
    """One of each, in seconds and MiB."""
    testbed("down", "-i", inventory)
    cold, report = timed("up", "-i", inventory, "--cold")
    if report["verdict"] not in ("PASS", None):
        sys.exit(f"the scenario ended with {report['verdict']}: this run measures nothing")
    ready = max(report["ended"][s] for s in report["ended"] if s.startswith("boot:"))
    keep = report["stages"].get("keep", 0.0)
    testbed("down", "-i", inventory)
    warm, report = timed("up", "-i", inventory)
    if not report["restored"]:
        sys.exit("the cache had no such lab: this run measures nothing")
    thawed = max(report["ended"][s] for s in report["ended"] if s.startswith("thaw:"))
    save, snapshot = timed("snapshot", "save", "-i", inventory, NAME)
    files = sorted(Path(snapshot["folder"]).glob("*.ram")) + sorted(Path(snapshot["folder"]).glob("*.qcow2"))
    read = read_seconds(files)
    testbed("snapshot", "delete", "-i", inventory, NAME)
    reset, _ = timed("reset", "-i", inventory)
    return {
        "cold ready": ready,
        "cold verified": cold - keep,
        "cold keep": keep,
        "warm thawed": thawed,
        "warm up": warm,
        "reset": reset,
        "cpu reset": cpu_seconds(lab_id),
        "save": save,
        "pause": snapshot["pause"],
        "MiB": snapshot["bytes"] / 2**20,
        "read": read,
    }


def peer(inventory: str, work: Path) -> float:
    """Seconds until as many machines answer on SSH, started one by one by virt-install with its own defaults."""
    lab = load_lab(inventory)
    image = Disks.of(lab.inventory.image).node_image
    daemon = PrivateDaemon("peer", LabDirectories("peer", work / "state", work / "run"))
    pid = daemon.start().contained[0].pid
    network = LabNetwork(daemon.directories)
    try:
        define = f"""<network><name>peer</name><bridge name='tbpeer'/>
<ip address='{lab.inventory.networks.management[1]}' prefix='24'/></network>"""
        (work / "network.xml").write_text(define)
        subprocess.run(command_in(pid, ["virsh", "-q", "net-create", str(work / "network.xml")]), check=True)
        began = time.monotonic()
        for node in lab.inventory.nodes:
            disk = work / f"{node.name}.qcow2"
            overlay = [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-b",
                str(image.disk),
                "-F",
                image.format,
                str(disk),
            ]
            subprocess.run(overlay, check=True)
            address = lab.inventory.management_address(node.name)
            mac = "52:54:" + ":".join(f"{byte:02x}" for byte in address.packed)
            boot = f"kernel={image.kernel},initrd={image.initrd},kernel_args={kernel_arguments()}"
            argv = ["virt-install", "--connect", "qemu:///system", "--import", "--name", f"peer-{node.name}"]
            argv += [
                "--memory",
                str(node.memory // 2**20),
                "--disk",
                str(disk),
                "--network",
                f"network=peer,mac={mac}",
            ]
            argv += ["--osinfo", "debian11", "--boot", boot, "--noautoconsole", "--graphics", "none"]
            subprocess.run(command_in(pid, argv), check=True, stdout=subprocess.DEVNULL)

            def answers(address: str = str(address)) -> None:
                try:
                    with network.dial(address, 22, 2) as connection:
                        if not connection.recv(4).startswith(b"SSH"):
                            raise NotYet("no banner")
                except OSError as e:
                    raise NotYet(str(e)) from None

            wait_until(f"{node.name} answers", answers, limit=240, interval=0.1)
        return time.monotonic() - began
    finally:
        daemon.stop()
        daemon.directories.remove()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inventory", nargs="?", default="bookinfo")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help="measure virt-install, too")
    options = parser.parse_args()
    lab_id = load_lab(options.inventory).id
    runs = []
    try:
        for number in range(options.runs):
            runs.append(measure(options.inventory, lab_id))
            if number == 0:
                print("run  " + "".join(f"{name:>14}" for name in runs[0]))
            print(f"{number + 1:<5}" + "".join(f"{value:>14.1f}" for value in runs[-1].values()), flush=True)
    finally:
        testbed("down", "-i", options.inventory)
    for name, of in (("mid", statistics.median), ("min", min), ("max", max)):
        print(f"{name:<5}" + "".join(f"{of([r[k] for r in runs]):>14.1f}" for k in runs[0]))
    if options.peer:
        import tempfile

        with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
            print(f"virt-install, one by one: {peer(options.inventory, Path(folder)):.1f} s until the last answers")


if __name__ == "__main__":
    main()
