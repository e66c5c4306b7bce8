"""A node that joins a cluster: what is told of it while it is waited for, and its clock."""

import time

import pytest

from testbed.backends.istio.reaching import KUBECONFIG
from testbed.errors import LabError, WaitTimeout
from testbed.guests.connection import Completed
from testbed.host.directories import testbed_home as home
from testbed.lab.lab import Lab
from testbed.model.reading import read_inventory
from testbed.waiting import NotYet
from testbed.workflows.kubernetes import require_ready, set_clock

TROUBLE = 'time="2026-11-29T22:00:05Z" level=error msg="x509: certificate is not yet valid"\n'
LAST = 'time="2026-11-29T22:00:06Z" level=info msg="Waiting to retrieve agent configuration; server is not ready"\n'


class Node:
    """Answers by what a command holds; ``says`` may be an error to raise."""

    node = "agent"

    def __init__(self, says):
        self.says, self.asked = says, []

    def run(self, argv, **options):
        self.asked.append(list(argv))
        for word, answer in self.says.items():
            if any(word in a for a in argv):
                if isinstance(answer, Exception):
                    raise answer
                return Completed(0, answer.encode(), b"")
        return Completed(1, b"", b"")


def lab(**nodes):
    made = Lab(read_inventory((home() / "inventories" / "k3s-small.yaml").read_text(), "k3s-small"), "k3s-small")
    made.connection = lambda name: Node(nodes.get(name, {}))
    return made


def test_a_node_that_is_not_there_yet_says_how_far_it_is_and_what_its_journal_complains_of():
    there = lab(agent={"is-active": f"activating\n{TROUBLE}{LAST}"})
    with pytest.raises(NotYet) as caught:
        require_ready(there, "agent", "k3s-agent.service", "v1.35.6+k3s1")
    assert str(caught.value) == (
        "k3s-agent.service is activating, no API yet (there is none yet); its journal: error: x509: certificate is not"
        " yet valid | last: Waiting to retrieve agent configuration; server is not ready"
    )


def test_a_unit_that_has_failed_ends_the_wait_with_its_reason():
    there = lab(agent={"is-active": f"failed\n{TROUBLE}"})
    with pytest.raises(
        LabError, match=r"^agent: start k3s-agent.service: x509: certificate is not yet valid$"
    ) as caught:
        require_ready(there, "agent", "k3s-agent.service", "v1.35.6+k3s1")
    assert "journalctl -u k3s-agent.service" in caught.value.next_step


@pytest.mark.parametrize("error", [LabError("agent", "connect", "reset"), WaitTimeout("a command", 60, "nothing")])
def test_a_busy_node_that_does_not_answer_is_waited_for(error):
    with pytest.raises(NotYet, match=str(error)):
        require_ready(lab(agent={"is-active": error}), "agent", "k3s-agent.service", "v1.35.6+k3s1")


def test_an_api_that_is_not_reached_is_waited_for():
    there = lab(
        agent={"is-active": "active\n"}, server={KUBECONFIG: LabError("server", "connect", "no route to host")}
    )
    with pytest.raises(NotYet, match=r"k3s-agent.service is active, no API yet \(no route to host\)"):
        require_ready(there, "agent", "k3s-agent.service", "v1.35.6+k3s1")


@pytest.mark.parametrize("off", [0.0, 1.5, -1.5, 90.0, -86400.0])
def test_a_clock_that_is_off_is_set_to_this_hosts(monkeypatch, off):
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    node = Node({"+%s.%N": f"{1_700_000_000.0 + off:.9f}\n", "-s": "Tue Nov 14\n"})
    found = set_clock(node)
    if abs(off) <= 2:
        assert (found, node.asked) == (0.0, [["date", "+%s.%N"]])
    else:
        assert found == pytest.approx(off)
        assert node.asked[1:] == [["date", "-s", "@1700000000.000"]]


def test_a_slow_answer_is_no_wrong_clock(monkeypatch):
    moments = iter([1_700_000_000.0, 1_700_000_010.0])
    monkeypatch.setattr(time, "time", lambda: next(moments))
    assert set_clock(Node({"+%s.%N": "1700000009.5\n"})) == 0.0
