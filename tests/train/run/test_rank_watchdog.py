"""Processes of a run that watch each other."""
import signal
import subprocess
import sys
import time

import pytest
from support.paths import ROOT
from support.toy_trainer import trainer_of

from sgm.train.run.distributed import RankWatchdog, exit_reason
from sgm.train.trainer import TrainingError

# A process of a run that waits, deaf to Python as a collective is, until a file of its folder's parent says what it shall do.
MEMBER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from sgm.common.errors import InputError
from sgm.train.run.distributed import RankWatchdog
with RankWatchdog({folder!r}) as watchdog:
    print(watchdog.path.name, flush=True)
    if not sys.stdin.readline():
        raise SystemExit(9)
    watchdog.watch()
    print("watches", flush=True)
    if sys.stdin.readline() == "fail\\n":
        raise InputError("no space left")
"""


class Member:
    def __init__(self, folder):
        code = MEMBER.format(root=str(ROOT), folder=str(folder))
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.name = self.process.stdout.readline().strip()

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def end(self):
        """(exit code, what was said on stderr)."""
        return self.process.wait(timeout=30), self.process.stderr.read()


@pytest.fixture
def three(tmp_path):
    """Three processes that watch each other."""
    members = [Member(tmp_path / "run") for _ in range(3)]
    for member in members:
        member.tell("watch")
        assert member.process.stdout.readline() == "watches\n"
    yield members
    for member in members:
        member.process.kill()


@pytest.mark.parametrize("word, reason", [(None, "it was killed, or crashed"), ("fail", "no space left")])
def test_when_one_is_gone_the_rest_end_and_say_so(word, reason, three):
    """However it went, and whatever they are waiting for."""
    gone, *others = three
    since = time.monotonic()
    if word is None:
        gone.process.send_signal(signal.SIGKILL)
    else:
        gone.tell(word)
    for member in others:
        code, said = member.end()
        assert code == 2 and f"process {gone.name} of this run has ended: {reason}; the others" in said, said
        assert "--resume" in said and said.strip().count("\n") == 0
    assert time.monotonic() - since < 15


def test_one_that_is_done_disturbs_nobody(three, tmp_path):
    """Nor do files of a run before, which are removed."""
    first, *others = three
    first.tell("done")
    assert first.end() == (0, "")
    time.sleep(2.5)
    for member in others:
        assert member.process.poll() is None
        member.tell("done")
        assert member.end() == (0, "")
    assert not list((tmp_path / "run").iterdir())


def test_files_of_an_earlier_run(tmp_path):
    old, good = tmp_path / "host-1", Member(tmp_path)
    old.touch()
    assert exit_reason(old) == "process host-1 of this run has ended: it was killed, or crashed"
    old.write_text("something else")
    assert exit_reason(old) == "something else"
    assert exit_reason(tmp_path / good.name) is None and exit_reason(tmp_path / "none") == ""
    with RankWatchdog(tmp_path) as watchdog:
        watchdog.watch()
        assert {path.name for path in tmp_path.iterdir()} == {good.name, watchdog.path.name}
    good.process.kill()


def test_a_collective_that_fails_is_one_line(monkeypatch):
    """As MindSpore says it when it waited in vain."""
    trainer = trainer_of()
    run = trainer._run

    def fails(name, *inputs):
        if name == "all_reduce_norm":
            raise RuntimeError("\n-----\n- Kernel error:\n-----\nLaunch kernel failed: Default/AllReduce-op0\n")
        return run(name, *inputs)
    monkeypatch.setattr(trainer, "_run", fails)
    with pytest.raises(RuntimeError, match="Kernel error"):         # alone it is no matter of processes
        trainer.advance()
    trainer.world_size = 2
    with pytest.raises(TrainingError, match=r"^step 1: .* could not add up their gradients \(Launch kernel failed: "):
        trainer.advance()
