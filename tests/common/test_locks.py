"""Locks of outputs: the second process is refused, whoever dies gives way."""
import errno
import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from support.commands import ending

from sgm.common import locks
from sgm.common.locks import LockedError, locked

HOLD = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX)
os.write(file, b"process 7 on there")
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(path):
    """Another process that holds the lock until it is killed."""
    process = subprocess.Popen([sys.executable, "-S", "-E", "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_second_is_refused_and_a_killed_one_gives_way(tmp_path):
    out = tmp_path / "new" / "run"
    out.parent.mkdir()
    with other_process(tmp_path / "new" / ".run.lock") as other:
        with pytest.raises(LockedError, match=r"--out .*/new/run: another process is writing there \(process 7 on there\)"):
            with locked(out, "--out"):
                raise AssertionError
        other.kill()
        other.wait()
        with locked(out, "--out"):
            assert (tmp_path / "new" / ".run.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert os.listdir(out.parent) == []


def test_a_folder_whose_parent_may_not_be_written_is_locked_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.os, "access", lambda path, mode: path != tmp_path.parent)
    with locked(tmp_path):
        assert os.listdir(tmp_path) == [f".{tmp_path.name}.lock"]
    assert os.listdir(tmp_path) == []


def test_a_lock_that_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """Its last owner removes it after we opened it: the lock of a file that is gone protects nothing."""
    lockf, calls = fcntl.lockf, []

    def late(file, kind):
        if not calls:
            os.unlink(tmp_path / ".x.lock")
        calls.append(file)
        lockf(file, kind)
    monkeypatch.setattr(fcntl, "lockf", late)
    with locked(tmp_path / "x"):
        assert os.listdir(tmp_path) == [".x.lock"]
    assert len(calls) == 2


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(file, kind):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(tmp_path / "x", "--out"):
        assert os.listdir(tmp_path) == []
    assert caplog.text.count("x: its file system has no locks (No locks available): see to it that no other") == 1


@pytest.fixture
def busy(monkeypatch):
    """Another process writes whatever is asked for."""
    def refuse(file, kind):
        raise BlockingIOError(errno.EAGAIN, "again")
    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.parametrize("command, argv", [
    ("render_orbits", ["procedural", "--count", "1", "--size", "8", "--out"]), ("render_clips", ["--count", "1", "--out"])])
def test_renderers_refuse_a_busy_output(command, argv, busy, tmp_path, capsys):
    module = __import__(command)
    assert ending(module.run, [*argv, str(tmp_path / "o")], capsys) == (
        2, f"{command}.py: --out {tmp_path}/o: another process is writing there (it has just begun), expected one at a time;"
           " wait for its end, or give another output")


def test_training_and_sampling_refuse_a_busy_output(busy, tmp_path, training, photo, quick, capsys):
    import simple_video_sample
    import train
    for run, argv in ((train.run, [*training, "--output"]), (simple_video_sample.run, ["--image", str(photo), "--output"])):
        code, said = ending(run, [*argv, str(tmp_path / "o")], capsys)
        assert code == 2 and said.count("another process is writing there") == 1
        assert not any((tmp_path / "o").glob("[!.]*"))


def test_a_mesh_refuses_a_busy_output(busy, tmp_path):
    from sgm.config.reconstruction import load_mesh_spec
    from sgm.reconstruct.pipeline import Reconstruction
    with pytest.raises(LockedError, match="output .*another process"):
        Reconstruction(tmp_path, load_mesh_spec("fast"), tmp_path / "mesh").run()


def test_one_busy_image_does_not_stop_the_folder(tmp_path, photo, quick, capsys):
    import simple_video_sample
    photo.with_name("mug.png").write_bytes(photo.read_bytes())
    (tmp_path / "o").mkdir()
    with other_process(tmp_path / "o" / ".cup_23.lock"):
        assert simple_video_sample.run(["--quiet", "--image", str(tmp_path), "--output", str(tmp_path / "o"),
                                        "--num-frames", "3", "--format", "png"]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "o/cup_23: another process is writing there (process 7 on there)" in said.err
    assert said.out == f"{tmp_path}/o/mug_23\n"


def test_an_interrupt_while_it_is_taken_leaves_no_lock(tmp_path, monkeypatch):
    """Ctrl-C between taking the lock and the work."""
    def interrupted(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(locks.os, "ftruncate", interrupted)
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "out"):
        pytest.fail("it began")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    with locked(tmp_path / "out"):      # and it is free
        assert len(list(tmp_path.iterdir())) == 1
