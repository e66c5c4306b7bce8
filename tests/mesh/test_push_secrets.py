"""Identities: shown, renewed under live connections, refused when they are somebody else's."""

from __future__ import annotations

import json
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from test_push_in_force import STRICT

from testbed.pki import LabCa, Validity

ALPN = ("istio-http/1.1", "istio", "http/1.1")


def serials(mesh) -> dict[str, str]:
    """Workload -> serial number of the certificate that its proxy has loaded."""
    found = {}
    for workload in mesh.topology.workloads:
        certificates = json.loads(mesh.backend.admin(workload.name, "/certs"))["certificates"]
        found[workload.name] = next(
            c["cert_chain"][0]["serial_number"] for c in certificates if c.get("cert_chain")
        )
    return found


def direct(mesh, **how) -> tuple[int, str]:
    """A request past the caller's sidecar to the workload's own port."""
    address = mesh.topology.workload("web-v1").address
    scheme = "https" if "credential" in how else "http"
    (answer,) = mesh.request("client-v1", f"{scheme}://{address}:8080/", user=1337, **how)
    return answer.status, answer.error


def test_secrets_are_the_proxys_own(two_services):
    two_services.apply("")
    found = list((two_services.run / "proxies").glob("*/sds/*.json"))
    assert len(found) >= 2 * len(two_services.topology.workloads)
    for file in found:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert file.stat().st_uid == two_services.guest.owner_of(file.parts[-3])


def test_keys_are_only_in_secrets(two_services):
    two_services.apply("")
    for file in two_services.run.rglob("*"):
        if (
            file.is_file()
            and "sds" not in file.parts
            and file.suffix in {".json", ".log", ""}
            and file.name != "envoy"
        ):
            assert b"PRIVATE KEY" not in file.read_bytes(), file


def test_certificates_are_renewed_without_losing_a_request(two_services):
    two_services.apply(STRICT)
    now = datetime.now(UTC)
    mesh = two_services
    for workload in mesh.topology.workloads:
        nearly_over = Validity(now - timedelta(days=29), now + timedelta(days=1))
        mesh.replace_secret(workload.name, mesh.ca.issue(workload.spiffe_id("cluster.local"), nearly_over))
    before = serials(mesh)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(
            mesh.request, "client-v1", "http://web/", n=300, pause=0.01, concurrency=2, reuse=True
        )
        written = mesh.backend.renew_certificates()
        answers = running.result()
    assert written == {w.name: ("sds/default.json",) for w in mesh.topology.workloads}
    assert Counter((a.status, a.error) for a in answers) == {(200, ""): 300}
    after = serials(mesh)
    assert all(before[w] != after[w] for w in before)
    assert not mesh.backend.renew_certificates()


def test_plaintext_is_refused_under_strict(two_services):
    two_services.apply("")
    assert direct(two_services)[0] == 200
    two_services.apply(STRICT)
    status, error = direct(two_services)
    assert (status, bool(error)) == (0, True)


def test_a_caller_with_another_cas_certificate_is_refused(two_services):
    two_services.apply(STRICT)
    identity = two_services.topology.workload("client-v1").spiffe_id("cluster.local")
    assert direct(two_services, credential=two_services.ca.issue(identity), alpn=ALPN)[0] == 200
    status, error = direct(two_services, credential=LabCa.create("other").issue(identity), alpn=ALPN)
    assert (status, bool(error)) == (0, True)


def test_an_expired_certificate_is_refused(two_services):
    two_services.apply(STRICT)
    identity = two_services.topology.workload("client-v1").spiffe_id("cluster.local")
    now = datetime.now(UTC)
    expired = two_services.ca.issue(identity, Validity(now - timedelta(days=2), now - timedelta(days=1)))
    assert direct(two_services, credential=expired, alpn=ALPN)[0] == 0


def test_a_server_that_shows_another_identity_is_not_spoken_to(two_services):
    """Secure naming: callers know which service accounts a service runs as."""
    mesh = two_services
    mesh.apply(STRICT)
    for name in ("web-v1", "web-v2"):
        mesh.replace_secret(name, mesh.ca.issue("spiffe://cluster.local/ns/default/sa/somebody-else"))
    assert {a.status for a in mesh.request("client-v1", "http://web/", n=5)} == {503}
    mesh.apply(STRICT)  # sees that they show what they should not, and gives them their own again
    assert {a.status for a in mesh.request("client-v1", "http://web/", n=5)} == {200}


DISABLE = STRICT.replace("STRICT", "DISABLE")


@pytest.mark.parametrize(("policy", "readable"), [(STRICT, False), (DISABLE, True)])
def test_nothing_readable_is_on_the_wire(two_services, policy, readable):
    mesh = two_services
    mesh.apply("")
    mesh.apply(policy)  # a change, so that connections are made anew and their handshakes are seen
    with mesh.capture("web-v1", "tcp") as first, mesh.capture("web-v2", "tcp") as second:
        mesh.request("client-v1", "http://web/a-secret-path", n=10)
    seen = first.payload() + second.payload()
    assert (b"a-secret-path" in seen) is readable
    # Only the server's name is told in clear; with it is proved that the capture saw the requests.
    assert (b"outbound_.80_._.web.default.svc.cluster.local" in seen) is not readable
