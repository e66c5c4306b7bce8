"""What machines waited for a processor is read from the host's kernel, thread by thread."""

import threading

import pytest

from testbed.host.scheduling import MachineThreads
from testbed.scenarios.processors import Processors, Stretch, Watch, worst


def machine(proc, pid, domain, **waited):
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "cmdline").write_bytes(f"qemu-system-x86_64\0-name\0guest={domain},debug-threads=on\0-S\0".encode())
    for thread, seconds in waited.items():
        task = folder / "task" / thread.removeprefix("t")
        task.mkdir(parents=True)
        (task / "schedstat").write_text(f"123 {int(seconds * 1e9)} 7\n")
    return folder


def test_threads_of_a_machine_are_found_by_its_domain(tmp_path):
    machine(tmp_path, 11, "shop-one", t11=0.5, t12=2.0)
    machine(tmp_path, 12, "shop-two", t12=1.0)
    machine(tmp_path, 13, "other-one", t13=9.0)
    (tmp_path / "self").mkdir()
    threads = MachineThreads({"one": "shop-one", "two": "shop-two", "off": "shop-off"}, tmp_path)
    assert threads.look() == {"one": {11: 0.5, 12: 2.0}, "two": {12: 1.0}}


def test_a_machine_that_was_started_again_is_found_again(tmp_path):
    folder = machine(tmp_path, 11, "shop-one", t11=0.5)
    threads = MachineThreads({"one": "shop-one"}, tmp_path)
    threads.look()
    folder.rename(tmp_path / "gone")
    assert threads.look() == {}
    machine(tmp_path, 21, "shop-one", t21=0.1)
    assert threads.look() == {"one": {21: 0.1}}


def test_this_kernel_counts_it():
    found = MachineThreads({}).look()
    assert found == {}
    assert all(
        w >= 0
        for w in MachineThreads({"me": "x"}, _processes={"me": __import__("os").getpid()}).look()["me"].values()
    )


def test_the_worst_thread_speaks_for_its_machine():
    before = {"one": {1: 0.0, 2: 1.0}, "two": {3: 5.0}}
    after = {"one": {1: 0.1, 2: 1.4, 9: 7.0}, "two": {3: 9.0}, "new": {4: 1.0}}
    assert worst(before, after, 0.5) == {"one": pytest.approx(0.8), "two": 1.0, "new": 0.0}


def test_a_share_is_of_the_time_asked_for():
    seen = Processors((Stretch(0, 1, {"one": 0.0}), Stretch(1, 2, {"one": 1.0}), Stretch(2, 3, {"one": 0.5})))
    assert seen.waited("one", 0.5, 1.5) == pytest.approx(0.5)
    assert seen.waited("one", 0, 3) == pytest.approx(0.5)
    assert seen.waited("one", 0, 6) == pytest.approx(0.25)
    assert seen.waited("two", 0, 3) == seen.waited("one", 3, 3) == 0.0
    assert seen.starved(["one", "two"], 1, 2) == ["one"]
    assert seen.hungry(1.0) == pytest.approx(1 / 3)
    assert Processors().hungry(1.0) == 0.0
    assert seen.on(lambda t: t + 10).waited("one", 11, 12) == 1.0


def test_a_watch_looks_until_it_is_over():
    asked = threading.Event()
    count = iter(range(100))

    def threads():
        number = next(count)
        if number == 2:
            asked.set()
        return {"one": {1: number * 0.5}}

    watch = Watch(threads)
    with watch.watching():
        assert asked.wait(10)
    assert watch.seen.stretches[0].waited["one"] > 0.5
