"""Take note at once when a process of a lab ends: a program that starts the lab's daemons and stays above them.

libvirt lets go of its machines as they start, so it is for whoever is above to take note when one has ended; until
then the kernel still lists it, and libvirt waits.  That would be the host's first process, which in a container may
take more than a second, and a restore ends all machines.

Runs the command in the environment variable ``TESTBED_LAUNCH`` (JSON) and ends with its status.  A child stays
for as long as anything that came of the command runs, and no longer (prctl(2), PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from contextlib import suppress

COMMAND = "TESTBED_LAUNCH"
_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Fork what stays, and end with the command's status."""
    command = json.loads(os.environ.pop(COMMAND))
    told, tell = os.pipe()
    if os.fork() == 0:
        os.close(told)
        _stay(command, tell)
        os._exit(0)
    os.close(tell)
    status = os.read(told, 1)  # nothing when what stays was killed
    os._exit(status[0] if status else 1)


def _stay(command: list[str], tell: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "become the one that takes in orphans")
    first = os.fork()
    if first == 0:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    os.closerange(3, tell)
    os.closerange(tell + 1, 256)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # goes when all others have gone
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            return
        if ended == first:
            with suppress(BrokenPipeError):  # whoever started it was ended
                os.write(tell, bytes([os.waitstatus_to_exitcode(status) & 0xFF]))
            os.close(tell)
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):  # whoever reads them waits for their end
                os.dup2(nothing, descriptor)
            os.close(nothing)


if __name__ == "__main__":
    main()
