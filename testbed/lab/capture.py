"""Captures on a machine's tap: what really crosses the wire, seen from below the guest."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import LabError
from testbed.host.namespaces import command_in
from testbed.lab.lab import Lab
from testbed.lab.machines import MESH, tap_name


@contextmanager
def capture(lab: Lab, node: str, keep: Path | None = None, only: str = "tcp") -> Iterator[Path]:
    """What the filter ``only`` (pcap-filter(7)) lets through of the node's mesh interface, into the file yielded.

    The file goes with the context; with ``keep``, a folder, it stays there: whole then, and the caller's to remove.
    Raises :class:`LabError` when tcpdump doesn't start, with its words.
    """
    with tempfile.TemporaryDirectory(prefix="testbed-capture-") as folder:
        file = (keep or Path(folder)) / f"{node}.pcap"
        argv = ["tcpdump", "-U", "--immediate-mode", "-Z", "root", "-i", tap_name(lab, MESH, node)]
        argv += ["-w", str(file), only]
        if lab.private:
            found = lab.daemon.find()
            if found is None or not found.contained:
                raise LabError(node, "capture on its tap", "the lab is not up", "run: testbed up")
            argv = command_in(found.contained[0].pid, argv, mount=False)
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as tcpdump:
            assert tcpdump.stderr is not None  # noqa: S101 - for the type checker
            try:
                last, said = "", tcpdump.stderr.readline().decode()
                while said and "listening on" not in said:  # from that line on nothing is missed
                    last, said = said, tcpdump.stderr.readline().decode()
                if not said:
                    raise LabError(node, "capture on its tap", last.strip(), "run: testbed doctor --fix")
                yield file
            finally:
                tcpdump.terminate()
                tcpdump.wait()
