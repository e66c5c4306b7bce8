"""Clearing tries everything, and says what it did and what it could not do."""

from types import SimpleNamespace

import pytest
from fault_lab import MACHINES, TOPOLOGY, fault

from testbed.cli import run
from testbed.errors import BadInput, LabError, NotApplicable
from testbed.faults import breaking, network
from testbed.faults.breaking import Breaker, NotMended
from testbed.faults.records import Standing
from testbed.workflows import faults as workflow


class Grip:
    """Takes note of being ended; fails on the nodes of ``stuck``."""

    def __init__(self, node, ended, stuck):
        self.node, self.ended, self.stuck = node, ended, stuck

    def end(self):
        self.ended.append(self.node)
        if self.node in self.stuck:
            raise LabError(self.node, "mend its CPU", "it does not answer")

    def await_well(self):
        pass


class Cleared(Breaker):
    """Of a lab that is told what stands in it."""

    machines = MACHINES

    def __init__(self, *faults, stuck=()):
        inventory = SimpleNamespace(mesh=SimpleNamespace(backend="standalone"))
        super().__init__(
            SimpleNamespace(
                inventory=inventory,
                topology=TOPOLOGY,
                id="bookinfo",
                tag="abc",
                hypervisor_if_up=lambda: True,
                has_cluster=False,
            )
        )
        self.stands = {f"{n:06x}": f for n, f in enumerate(faults)}
        self.ended, self.stuck = [], stuck

    def standing(self):
        return tuple(Standing(i, f, None, 0.0, f.target) for i, f in self.stands.items())

    def _grips(self, actions, fault):
        return {a.node: [Grip(a.node, self.ended, self.stuck)] for a in actions}

    def _forget(self, made):
        del self.stands[made.id]


@pytest.fixture(autouse=True)
def nobody_is_connected(monkeypatch):
    monkeypatch.setattr(breaking, "close_half_open", lambda *_: 0)
    monkeypatch.setattr(network, "tables", lambda lab: ())


def test_one_fault_that_cannot_be_undone_keeps_no_other_from_it():
    made = Cleared(fault("freeze", "one"), fault("cpu-starvation", "two"), fault("freeze", "three"), stuck=["two"])
    with pytest.raises(NotMended, match="two: mend its CPU: it does not answer") as caught:
        made.clear()
    assert [m.fault.title for m in caught.value.mended] == ["freeze three", "freeze one"]
    assert [f.title for f in made.stands.values()] == ["cpu-starvation two"]


def test_every_error_is_said():
    made = Cleared(fault("freeze", "one"), fault("cpu-starvation", "nobody"), stuck=["one"])
    with pytest.raises(NotMended) as caught:
        made.clear()
    assert "'nobody'" in str(caught.value) and "one: mend its CPU" in str(caught.value)


def test_on_one_machine_every_part_is_mended():
    made = Cleared()
    first, second = Grip("two", made.ended, ["two"]), Grip("two", made.ended, [])
    with pytest.raises(LabError, match="does not answer"):
        made._end({"two": [first, second]})
    assert made.ended == ["two", "two"]


def test_a_filter_of_which_no_machine_has_a_note_is_removed(monkeypatch):
    made, removed = Cleared(fault("partition", "one", peer="two")), []
    monkeypatch.setattr(network, "tables", lambda lab: ("testbed-abc-000000", "testbed-abc-5ca1ab"))
    monkeypatch.setattr(network, "restore", lambda lab, fault: removed.append(fault))
    assert made.clear_strays() == ("5ca1ab",)
    assert removed == ["5ca1ab"]


def test_the_command_says_what_it_mended_and_what_not(monkeypatch, capsys):
    made = Cleared(fault("freeze", "one"), fault("freeze", "two"), stuck=["two"])
    made.lab.hypervisor = lambda: SimpleNamespace(machines=lambda: {"one": None})
    monkeypatch.setattr(workflow, "Breaker", lambda lab: made)
    cleared = workflow.clear(made.lab)
    assert [m.fault.title for m in cleared.mended] == ["freeze one"]
    monkeypatch.setattr(workflow, "clear", lambda lab: cleared)
    assert run(["fault", "clear"]) == 1
    said = capsys.readouterr()
    assert "mended freeze one on one\n" in said.out and "1 mended, 1 could not be" in said.out
    assert "two: mend its CPU: it does not answer" in said.err


def test_what_has_no_meaning_in_a_lab_is_no_bad_input():
    made = Cleared()
    made.lab.inventory = SimpleNamespace(mesh=SimpleNamespace(backend="istio"))
    with pytest.raises(NotApplicable, match="partition: make it: not applicable here: CoreDNS") as caught:
        made.make(fault("partition", "one", only="dns"))
    assert caught.value.exit_code == 3
    with pytest.raises(BadInput):
        made.make(fault("freeze", "nobody"))
