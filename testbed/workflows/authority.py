"""The CA of a lab: the one that its inventory names, else one of the lab's own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from testbed.documents import parse
from testbed.errors import BadInput, LabError, Problem
from testbed.host.directories import testbed_home
from testbed.lab.lab import Lab
from testbed.pki import LabCa
from testbed.pki.external import external_ca
from testbed.workflows.loading import find_inventory, read_text


def lab_ca(lab: Lab) -> LabCa:
    """What signs in the lab, made (or taken over) on first use and kept in the lab's folder.

    Raises what :func:`require_ca` does.
    """
    kept = lab.directories.pki / "ca"
    given = require_ca(lab)
    if given is not None and not kept.exists():
        given.save(kept)
    return LabCa.open(kept, lab.id)


def require_ca(lab: Lab) -> LabCa | None:
    """The CA that the inventory names, which must be the one that the lab was made with; None when it names none.

    Raises :class:`BadInput`, located in the inventory, for one that can't be used, and :class:`LabError` for
    another than the lab's.  Makes nothing.
    """
    if lab.inventory.mesh.ca is None:
        return None
    path = Path(lab.inventory.mesh.ca).expanduser()
    try:
        given = external_ca(path if path.exists() else testbed_home() / path, datetime.now(UTC))
    except BadInput as e:
        [document] = parse(read_text(find_inventory(lab.file)), lab.file)
        where = document.locate(("mesh", "ca"))
        raise BadInput([Problem(where, f"{p.location}: {p.message}", p.next_step) for p in e.problems]) from None
    kept = lab.directories.pki / "ca"
    if kept.exists() and LabCa.load(kept).certificate != given.certificate:
        cause = "the lab was made with another one, which its workloads trust"
        raise LabError(lab.id, f"use the CA in {path}", cause, "make the lab anew: testbed down, then testbed up")
    return given
