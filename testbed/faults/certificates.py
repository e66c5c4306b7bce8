"""Another certificate for a workload, laid where its proxy watches; the right one is kept beside it."""

from __future__ import annotations

import base64
import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from testbed.backends.guest import Guest
from testbed.backends.looking import exchange
from testbed.backends.secrets import identity_file
from testbed.compiler.xdspaths import IDENTITY, secret_path
from testbed.errors import LabError
from testbed.faults.proof import Proof
from testbed.lab.lab import Lab
from testbed.model.fault import FaultKind
from testbed.pki import Credential, LabCa, Validity, certificate_of
from testbed.plan.faults import Certificate, peers_of
from testbed.plan.guestfaults import renewed


@dataclass
class CertificateGrip:
    """The file of the proxy's identity: replaced by rename, as a push does it."""

    action: Certificate
    lab: Lab
    guest: Guest = field(default_factory=Guest)
    serial: str = ""

    def begin(self) -> None:
        """Lay the other certificate."""
        credential = self._credential()
        content = identity_file(credential).content
        self.serial = f"{certificate_of(credential.chain).serial_number:x}"
        path = self._path
        # through base64: the text is safe in a shell, and one round trip carries all of it
        script = (
            f"{self._shown}\nset -e; rm -f {self._told}; [ -e {path}.kept ] || cp -p {path} {path}.kept; "
            f"cp -p {path} {path}.new; echo {base64.b64encode(content).decode()} | base64 -d >{path}.new; "
            f"mv {path}.new {path}\n"
        )
        if self.action.how is not FaultKind.CERTIFICATE_ROTATED:  # a good one is no reason to break anything
            topology = self.lab.topology
            peers = peers_of([topology.workload(self.action.workload)], topology)
            inside = {self.guest.namespace_of(name): others for name, others in peers.items()}
            # the list is the main thread's; the workers have it a moment later
            script += f"if shown; then sleep 0.1; {renewed(inside, self._told)}; fi"
        self._run(script, "lay another certificate")

    def prove(self) -> Proof:
        """The proxy's own list of certificates names the serial number that was laid."""
        script = f"{self._shown}\ncat {self._told} 2>/dev/null; shown"
        done = self.lab.connection(self.action.node).run(["sh", "-c", script], check=False)
        shows = "shows" if done.status == 0 else "does not show"
        closed = done.stdout.decode().strip()
        anew = f", {closed} connections are to be made anew" if closed else ""
        return Proof(done.status == 0, f"the proxy {shows} the certificate {self.serial[:12]}{anew}")

    def end(self) -> None:
        """Put the right one back."""
        path = self._path
        # on the disk, too: a machine that goes down next would come back with the other one, and nobody to mend it
        script = f"rm -f {self._told}; [ ! -e {path}.kept ] || {{ mv {path}.kept {path} && sync -f {path}; }}"
        self._run(script, "put its certificate back")

    def await_well(self) -> None:
        """Nothing to wait for: proxies take a new secret within milliseconds."""

    @property
    def _shown(self) -> str:
        """A function of the shell that waits until the proxy lists the certificate, for three seconds."""
        listed = shlex.join(exchange(self.guest, self.action.workload, self.guest.admin_port, "/certs"))
        look = f"{listed} | grep -q {self.serial} && return 0; sleep 0.3"
        return f"shown() {{ for i in 1 2 3 4 5 6 7 8 9 10; do {look}; done; return 1; }}"

    @property
    def _told(self) -> str:
        return f"/run/testbed-fault.{self.guest.namespace_of(self.action.workload)}.closed"

    @property
    def _path(self) -> str:
        workload = self.lab.topology.workload(self.action.workload)
        return f"{self.guest.layout.directory(workload)}/{secret_path(IDENTITY)}"

    def _credential(self) -> Credential:
        topology = self.lab.topology
        identity = topology.workload(self.action.workload).spiffe_id(topology.trust_domain)
        ca = LabCa.open(self.lab.directories.pki / "ca", self.lab.id)
        now = datetime.now(UTC)
        if self.action.how is FaultKind.CERTIFICATE_FOREIGN:
            return LabCa.create("foreign").issue(identity)
        if self.action.how is FaultKind.CERTIFICATE_EXPIRED:
            return ca.issue(identity, Validity(now - timedelta(days=2), now - timedelta(hours=2)))
        return ca.issue(identity)

    def _run(self, script: str, action: str) -> None:
        done = self.lab.connection(self.action.node).run(["sh", "-c", script], check=False)
        if done.status != 0:
            raise LabError(self.action.workload, action, done.stderr.decode(errors="replace").strip())
