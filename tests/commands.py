"""The command line as people call it, and a look at what a lab leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from testbed.host import processes
from testbed.host.directories import LabDirectories, testbed_home
from testbed.lab.snapshots import cache_store
from testbed.waiting import NotYet, wait_until

SHARED = "bookinfo"
"""The lab that all tests on machines share, but for those that make or break labs of their own."""

COMMAND = [sys.executable, "-c", "from testbed.cli import main; main()"]


def cli(*arguments, code=0, limit=300):
    """Run a command; returns what it wrote to stdout.  No command may ever show a traceback."""
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=limit, cwd=testbed_home(), check=False
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    assert done.returncode == code, f"testbed {' '.join(arguments)}: exit {done.returncode}: {done.stderr}"
    return done.stdout if code == 0 else done.stderr


def forget(lab_id):
    """Delete what `up` has kept of a lab: the next one makes its machines, from a template where there is one."""
    store = cache_store(lab_id)
    for snapshot in store.all():
        if snapshot.manifest.lab == lab_id:
            store.delete(snapshot)


def left_behind(lab_id):
    """Whatever there still is of a lab."""
    directories = LabDirectories(lab_id)
    files = [str(p) for p in (directories.state, directories.runtime) if p.exists()]
    return files + [str(p) for p in processes.of_lab(directories.state)]


def steps(lab_id):
    """The step events in the lab's log, as (name, state)."""
    try:
        lines = LabDirectories(lab_id).log.read_text().splitlines()
    except OSError:
        return []
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [(e["step"], e["state"]) for e in events if e.get("event") == "step"]


@contextmanager
def running(*arguments):
    """A command under way; it is killed when the block ends."""
    process = subprocess.Popen(
        # a shell starts what it runs in the background with interrupts ignored, and children inherit that
        ["env", "--default-signal=INT", *COMMAND, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=testbed_home(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_step(lab_id, step, process, limit=120):
    """Until ``up`` has begun ``step``; an ``up`` that ends before is an error."""
    seen = len(steps(lab_id))
    began = time.monotonic()

    def there():
        events = steps(lab_id)
        if (step, "running") in events[seen if len(events) >= seen else 0 :]:
            return
        assert process.poll() is None, f"up ended before {step}: {process.stderr.read()}"
        raise NotYet(str(events[-1:]))

    wait_until(f"step {step}", there, limit=limit, interval=0.02)
    return time.monotonic() - began
