"""A wait says what it sees while it waits, and a plan's progress shows it."""

import threading
from contextlib import closing

import pytest
from rich.console import Console

from testbed.cli import terminal
from testbed.cli.terminal import Progress, shortened
from testbed.errors import WaitTimeout
from testbed.lab.executor import StepEvent, StepState, execute
from testbed.plan.steps import DefineNetwork, Plan, Stage, Step
from testbed.waiting import NotYet, telling, wait_until


def probe(*says):
    """Sees each of ``says`` in turn, and then what is waited for."""
    left = list(says)

    def look():
        if left:
            raise NotYet(left.pop(0))
        return "there"

    return look


def test_what_is_seen_is_told_whenever_it_has_changed():
    told = []
    with telling(lambda name, seen: told.append((name, seen))):
        assert (
            wait_until("the node is Ready", probe("no API", "no API", "cni", "no API"), limit=5, interval=0.01)
            == "there"
        )
        wait_until("at once", probe(), limit=5)
    assert told == [("the node is Ready", seen) for seen in ("no API", "cni", "no API")]
    wait_until("nobody listens", probe("no API"), limit=5, interval=0.01)
    assert len(told) == 3


def test_only_the_thread_that_asked_for_it_is_told():
    told = []
    with telling(lambda *seen: told.append(seen)):
        other = threading.Thread(target=lambda: wait_until("elsewhere", probe("x"), limit=5, interval=0.01))
        other.start()
        other.join()
    assert told == []


def test_a_wait_that_runs_out_of_time_says_what_it_saw_last():
    with pytest.raises(WaitTimeout, match=r"^the node is Ready: waited 0 s: last seen: no API$"):
        wait_until("the node is Ready", probe("no API"), limit=0)


def step(name, *needs):
    return Step(name, DefineNetwork(name), f"make {name}", "down", "it is there", Stage.HOST, frozenset(needs))


def test_a_plans_watcher_hears_what_a_running_step_waits_for_from_one_thread():
    heard, threads = [], set()
    shown = threading.Event()

    def watch(event):
        threads.add(threading.get_ident())
        heard.append((event.step.name, event.state, event.seen))
        if event.seen:
            shown.set()

    def perform(action, cancel):
        if action.role == "slow":
            seen = iter(range(10_000))

            def look():
                if not shown.is_set():
                    raise NotYet(f"look {next(seen)}")

            wait_until("slow is Ready", look, limit=20, interval=0.05, cancel=cancel)

    execute(Plan((step("slow"), step("quick"))), perform, watch)
    [seen] = [text for name, state, text in heard if text]
    assert seen.startswith("slow is Ready: look "), "the last one, not each of them"
    assert ("slow", StepState.RUNNING, seen) in heard
    assert heard[-1] == ("slow", StepState.DONE, "")
    assert threads == {threading.get_ident()}


@pytest.fixture
def lines(monkeypatch, tmp_path):
    """What is printed where nothing can be redrawn, at times that the test says."""
    now = [1000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with closing((tmp_path / "out").open("w+")) as file:
        monkeypatch.setattr(terminal, "console", Console(file=file, width=200, highlight=False))

        def printed():
            file.flush()
            return (tmp_path / "out").read_text().splitlines()

        yield now, printed


def test_without_a_terminal_a_step_that_waits_says_so_every_half_a_minute(lines):
    now, printed = lines
    progress = Progress(Plan((step("cluster:server"),)))
    [only] = progress._steps.values()
    progress(StepEvent(only, StepState.RUNNING))
    for second in range(0, 91, 3):
        now[0] = 1000.0 + second
        progress(StepEvent(only, StepState.RUNNING, seen=f"server is Ready:\n  [seen] at {second}"))
    assert printed() == [f"…   {s}.0s cluster:server: server is Ready: [seen] at {s}" for s in (30, 60, 90)]
    now[0] += 1
    progress(StepEvent(only, StepState.DONE, 91.0))
    assert printed()[-1].split()[-1] == "91.0s"
    quiet = Progress(Plan((step("cluster:server"),)), quiet=True)
    quiet(StepEvent(only, StepState.RUNNING, seen="nothing to say"))
    assert len(printed()) == 4


def test_on_a_terminal_what_a_step_waits_for_stands_below_it_until_it_ends(lines):
    progress = Progress(Plan((step("cluster:server"), step("pods", "cluster:server"))))
    first = progress._steps["cluster:server"]

    def table():
        console = Console(width=100)
        with console.capture() as captured:
            console.print(progress._table())
        return captured.get()

    progress(StepEvent(first, StepState.RUNNING))
    progress(
        StepEvent(first, StepState.RUNNING, seen="server is Ready in the cluster: " + "much " * 60 + "the end")
    )
    assert "server is Ready in the" in table()
    assert "the end" in table()
    progress(StepEvent(first, StepState.DONE, 1.0))
    assert "the end" not in table()


def test_a_long_text_keeps_its_beginning_and_its_end():
    assert shortened("short", 40) == "short"
    text = shortened("NAME: " + "x" * 500 + " END", 60)
    assert len(text) == 60
    assert text.startswith("NAME: x")
    assert text.endswith("x END")
