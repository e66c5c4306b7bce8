"""Telling a lab's processes from /proc, on a made-up /proc."""

from pathlib import Path

import pytest

from testbed.host import processes

STATE = Path("/state/my labs/one")
MOUNTS = "22 1 0:20 / /proc rw shared:5 - proc proc rw\n"


class Proc:
    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self, pid: int, command: str, *, namespace: str = "mnt:[1]", mounts: str = MOUNTS, **files: str
    ) -> None:
        folder = self.root / str(pid)
        (folder / "ns").mkdir(parents=True)
        (folder / "ns" / "mnt").symlink_to(namespace)
        (folder / "mountinfo").write_text(mounts)
        (folder / "cmdline").write_text(command.replace(" ", "\0") + "\0")
        (folder / "environ").write_text(files.get("environ", "PATH=/bin\0"))
        (folder / "stat").write_text(f"{pid} ({command.split()[0][:15]}) {files.get('state', 'S')} 1 1 1 0\n")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def lab_mounts(state: Path) -> str:
    source = processes.mark(state).replace(" ", "\\040")
    return MOUNTS + f"90 80 0:50 / /run rw,nosuid - tmpfs {source} rw,mode=755\n"


def test_what_libvirt_starts_belongs_to_the_lab_by_its_mount_namespace(proc: Proc) -> None:
    """QEMU has a clean environment; blanks in the state folder stand as octal escapes in mountinfo."""
    proc.add(7, "/usr/bin/qemu-system-x86_64 -name x", namespace="mnt:[2]", mounts=lab_mounts(STATE))
    proc.add(8, "bash")
    assert [(p.pid, p.name, p.contained) for p in processes.of_lab(STATE, proc.root)] == [
        (7, "qemu-system-x86_64", True)
    ]


def test_what_lives_outside_belongs_to_the_lab_by_its_environment(proc: Proc) -> None:
    proc.add(9, "python -m testbed.host.forward", environ=f"A=b\0{processes.ENVIRONMENT}={STATE}\0")
    assert [(p.pid, p.contained) for p in processes.of_lab(STATE, proc.root)] == [(9, False)]


def test_another_lab_and_a_word_on_a_command_line_do_not_count(proc: Proc) -> None:
    """`grep testbed:/state/...` in a shell must not be ended with the lab; nor one whose folder begins alike."""
    proc.add(10, f"grep {processes.mark(Path('/state/one'))}")
    proc.add(11, "qemu", namespace="mnt:[3]", mounts=lab_mounts(Path("/state/one-more")))
    proc.add(12, "python", environ=f"{processes.ENVIRONMENT}=/state/one-more\0")
    assert processes.of_lab(Path("/state/one"), proc.root) == []


def test_zombies_are_gone(proc: Proc) -> None:
    proc.add(13, "qemu", namespace="mnt:[2]", mounts=lab_mounts(STATE), state="Z")
    assert processes.of_lab(STATE, proc.root) == []


def test_a_process_forked_during_the_look_is_seen(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent was listed and had ended before it was read."""
    (proc.root / "20").mkdir()
    listings = [[20], [20, 21], [20, 21]]
    monkeypatch.setattr(processes, "_pids", lambda _: listings.pop(0))
    proc.add(21, "libvirtd --daemon", namespace="mnt:[2]", mounts=lab_mounts(STATE))
    assert [p.pid for p in processes.of_lab(STATE, proc.root)] == [21]


def test_labs_are_listed_by_their_marks(proc: Proc) -> None:
    proc.add(30, "qemu", namespace="mnt:[2]", mounts=lab_mounts(STATE))
    proc.add(31, "libvirtd", namespace="mnt:[2]", mounts=lab_mounts(STATE))
    proc.add(32, "bash")
    assert processes.running_labs(proc.root) == [STATE]


def test_a_port_that_nobody_listens_on_has_no_owner() -> None:
    assert processes.listener_on(1) == ""
