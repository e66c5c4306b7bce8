"""Three servers on machines, from the mirror that TESTBED_MIRROR names: one is lost, and the cluster goes on."""

import pytest

from testbed.waiting import NotYet, wait_until

pytestmark = pytest.mark.full

LAB = "k3s-ha"
SERVERS = ("server-1", "server-2", "server-3")
API, ROUTER = "10.77.0.9", "10.78.0.9"
UP_LIMIT = 3600


def holders(lab, address, among=SERVERS):
    return [s for s in among if lab.run("ssh", s, "--", "ip", "-4", "-o", "address", "show", "to", address).strip()]


def test_up_passes_the_scenario_with_three_servers(lab):
    assert lab.report["verdict"] == "PASS"
    assert len(holders(lab, API)) == 1
    assert len(holders(lab, ROUTER)) == 1


def test_the_api_answers_and_takes_a_change_while_the_server_that_had_its_address_is_lost(lab, tmp_path):
    [lost] = holders(lab, API)
    left = [s for s in SERVERS if s != lost]
    lab.run("fault", "power-off", lost)
    try:

        def moved():
            if len(found := [*holders(lab, API, left), *holders(lab, ROUTER, left)]) != 2:
                raise NotYet(f"the addresses are on {found}")

        wait_until("both addresses are on servers that are left", moved, limit=60, interval=2)

        def has_istiod():
            ages = [
                lab.run("ssh", s, "--", "ps", "-o", "etimes=", "-C", "pilot-discovery", status=None).split()
                for s in left
            ]
            if not any(int(age) > 60 for found in ages for age in found):
                raise NotYet(f"seconds that istiod has run on them: {ages}")

        wait_until("istiod is on a server that is left", has_istiod, limit=600, interval=5)
        change = tmp_path / "split.yaml"
        routes = "".join(
            f"        - {{destination: {{host: echo, subset: {v}}}, weight: {w}}}\n"
            for v, w in (("v1", 90), ("v2", 10))
        )
        change.write_text(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: echo}\n"
            f"spec:\n  hosts: [echo]\n  http:\n    - route:\n{routes}"
        )
        lab.run("apply", str(change), limit=600)
        assert "weight: 90" in lab.run("applied")
    finally:
        lab.run("fault", "clear", limit=900)


def test_the_scenario_of_a_lost_server_passes(lab):
    lab.run("up", limit=UP_LIMIT)
    assert lab.verdicts("cluster-server-lost") == {"cluster-server-lost": "PASS"}
