"""Labs that are on this host already, and what is left of labs that are not."""

from __future__ import annotations

from testbed.host import processes
from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories, existing_labs
from testbed.host.finding import Finding, Level

_WHY = "a lab that was left behind holds memory, addresses and disk space"


def probe() -> list[Finding]:
    """One finding for each lab; none if there never was one.  Only root sees the processes of private daemons."""
    known = {lab.state: lab for lab in existing_labs()}
    running = processes.running_labs()
    return [_lab(known.get(s) or LabDirectories(s.name, s)) for s in sorted({*known, *running})]


def _lab(directories: LabDirectories) -> Finding:
    name = f"lab {directories.lab_id}"
    found = PrivateDaemon(directories.lab_id, directories).find()
    if found is None:
        return Finding(name, Level.OK, f"stopped; its disks are in {directories.state}", _WHY)
    count = f"{len(found.machines)} machines, {len(found.all)} processes"
    if not directories.state.exists():
        fix = ("kill", *(str(p.pid) for p in found.all))
        detail = f"its folder {directories.state} is gone, but it runs: {count}"
        return Finding(name, Level.WARNING, detail, _WHY, " ".join(fix), fix)
    if found.libvirtd is None:
        detail = f"left behind without its libvirt daemon: {count}"
        return Finding(
            name, Level.WARNING, detail, _WHY, "`testbed up` takes it up again, `testbed down` removes it"
        )
    return Finding(name, Level.OK, f"runs: {count}", _WHY)
