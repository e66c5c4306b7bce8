"""Whoever asks for a deploy and is killed leaves no pyinfra behind."""

import os
import signal
import subprocess
import sys

from testbed.host.processes import PROC
from testbed.waiting import NotYet, wait_until

ASKING = """
from pathlib import Path
from testbed.deploy import DeployHost, run_deploy
run_deploy(Path({deploy!r}), [DeployHost("here", {{}}, connector="local")])
"""
HANGING = "from pyinfra.operations import server\nserver.shell(commands=['sleep 1000'])\n"


def children(parent):
    return [int(pid) for pid in (PROC / str(parent) / "task" / str(parent) / "children").read_text().split()]


def test_a_killed_command_takes_its_deploy_with_it(tmp_path):
    deploy = tmp_path / "deploy.py"
    deploy.write_text(HANGING)
    asking = subprocess.Popen([sys.executable, "-c", ASKING.format(deploy=str(deploy))], cwd="/")
    found = []

    def at_work():
        found[:] = children(asking.pid)
        if not found or not children(found[0]):
            raise NotYet(f"children: {found}")

    wait_until("pyinfra runs an operation", at_work, limit=60)
    [pyinfra] = found
    os.kill(asking.pid, signal.SIGKILL)
    asking.wait()

    def gone():
        try:
            state = (PROC / str(pyinfra) / "stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state not in "ZX":
            raise NotYet(f"it is {state}")

    wait_until("pyinfra is gone", gone, limit=10)
