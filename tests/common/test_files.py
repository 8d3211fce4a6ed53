"""Writing files: what fails leaves nothing behind, and the earlier file as it was."""
import errno
import os
import random
import socket
import subprocess
import sys

import pytest
from support.tensor_files import TENSORS, error_of, saved, tensors

from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError
from sgm.common.errors import InputError
from sgm.common.files import HOST, _start_of, atomic, check_file, natural_key


@pytest.mark.parametrize("kind, said", [("pipe", "a pipe"), ("socket", "a socket"), ("/dev/zero", "a device"),
                                        ("no\0name", "no file can have this name"),
                                        ("x" * 5000, "xxx...: no file can have this name")])
def test_what_is_no_file_is_refused_unread(kind, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if kind == "pipe":
        os.mkfifo(kind)
    with socket.socket(socket.AF_UNIX) as opened:
        if kind == "socket":
            opened.bind(kind)
        message = error_of(check_file, kind, CheckpointError)
    assert said in message and "\0" not in message
    check_file(tmp_path)
    check_file("is not there")


def test_natural_order():
    names = ["a/frame_1.png", "a/frame_2.png", "a/frame_2b.png", "a/frame_10.png", "a/frame_010.png", "b10/2", "b9/10",
             "frame.png", "1.png", "01.png", "x1y2", "x1y10", "x01y3"]
    expected = ["01.png", "1.png", "a/frame_1.png", "a/frame_2.png", "a/frame_2b.png", "a/frame_010.png",
                "a/frame_10.png", "b9/10", "b10/2", "frame.png", "x1y2", "x01y3", "x1y10"]
    random.Random(0).shuffle(names)
    assert sorted(names, key=natural_key) == expected


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failed_write_leaves_the_earlier_file(name, tmp_path, monkeypatch):
    path = saved(tmp_path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, name, full)
    message = error_of(saved, tmp_path, tensors(first__bias=None))
    assert "cannot be written (No space left on device, 0.0 MB needed)" in message and "free space" in message
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), CheckpointError("x")])
def test_what_fails_vanishes(folder, error, tmp_path):
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError):
        with atomic(tmp_path / "x") as temporary:
            if folder:
                temporary.mkdir()
            (temporary / "a" if folder else temporary).write_bytes(b"half")
            raise error
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Of this host: what another one's processes write into a shared folder is theirs."""
    gone, running = (tmp_path / f".x[1].safetensors.{HOST}.{pid}.tmp" for pid in (4194305, os.getppid()))
    elsewhere = tmp_path / ".x[1].safetensors.another.4194305.tmp"
    elsewhere.write_bytes(b"half")
    gone.write_bytes(b"half")
    running.write_bytes(b"half")
    save_safetensors(tmp_path / "x[1].safetensors", {"a": TENSORS["w"]})
    assert sorted(os.listdir(tmp_path)) == sorted([running.name, elsewhere.name, "x[1].safetensors"])


def test_a_dead_process_or_its_number_given_again_keeps_nothing(tmp_path):
    """A killed process is a zombie until its parent asks; later its number belongs to another process."""
    parent = os.getppid()
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)           # ended, and not yet asked about
    assert os.path.exists(f"/proc/{process.pid}") and _start_of(process.pid) is None
    zombie, again, running = (tmp_path / f".x.{HOST}.{owner}.tmp" for owner in (
        process.pid, f"{parent}-1", f"{parent}-{_start_of(parent)}"))
    for left in (zombie, again, running):
        left.mkdir()
    with atomic(tmp_path / "x") as temporary:
        assert temporary.name == f".x.{HOST}.{os.getpid()}-{_start_of(os.getpid())}.tmp"
        temporary.write_text("whole")
    process.wait()
    assert sorted(os.listdir(tmp_path)) == [running.name, "x"]
