"""Several processes, started by MindSpore's own launcher."""
import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.training import POSED, flags, write_toys

import train
from sgm.checkpoints.mapped_file import open_checkpoint

MSRUN = [str(Path(sys.executable).with_name("msrun")), "--worker_num=2", "--local_worker_num=2"]


def launch(argv, folder, port, join=True, script="train.py", **environment):
    """(exit code, what was said) of a script in two processes; without `join` msrun has ended when they begin."""
    # msrun starts "python"; the one of this environment
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    command = [*MSRUN, f"--join={join}", f"--master_port={port}", f"--log_dir={folder / 'logs'}", script, *argv,
               "--distributed"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout + done.stderr


def rows_of(run):
    with open(run / "metrics.csv") as file:
        return np.array([[float(row[name] or "nan") for name in ("step", "loss", "grad_norm", "lr", "val_loss")]
                         for row in csv.DictReader(file)])


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(tmp_path, relative_error):
    """Losses, gradients, rates and weights of 2 x batch 1 and of 2 accumulated batches; also after going on."""
    toys, runs = write_toys(tmp_path / "toys"), [tmp_path / "one", tmp_path / "two"]

    def command(output, steps, *changes, more=()):
        return flags("sv3d_tiny", "vae_tiny", toys, output, "crop=16", "batch=1", "schedule=constant", f"steps={steps}",
                     f"val=[{toys}]", *changes, more=more)
    assert train.run(command(runs[0], 5, "accumulate=2")) == 0
    code, said = launch(command(runs[1], 3), tmp_path, 8231)
    assert code == 0, said
    code, said = launch(command(runs[1], 5, more=["--resume"]), tmp_path, 8232)
    assert code == 0, said
    ours, theirs = map(rows_of, runs)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)
    weights = [open_checkpoint(run / "averaged.safetensors") for run in runs]
    assert all(relative_error(weights[1].read(key), weights[0].read(key)) < 1e-4 for key in weights[0])


@pytest.mark.slow
def test_a_whole_unet(tmp_path):
    """Of the small video model as it is: a loop over its 668 parameters does not compile."""
    toys, runs = write_toys(tmp_path / "toys"), [tmp_path / "one", tmp_path / "two"]

    def command(output, *changes):
        return flags("sv3d_tiny", "sv3d_tiny", toys, output, "batch=1", "frames=0", "steps=2", f"val=[{toys}]",
                     "sheet_every=0", *changes, model_changes=["num_frames=3", "height=32", "width=32"])
    assert train.run(command(runs[0], "accumulate=2")) == 0
    code, said = launch(command(runs[1]), tmp_path, 8241)
    assert code == 0, said
    np.testing.assert_allclose(rows_of(runs[1]), rows_of(runs[0]), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_kill_9(rank, tmp_path):
    """When one is killed, the other does not wait: it ends with a line, and the run goes on from its last checkpoint."""
    toys, run = write_toys(tmp_path / "toys"), tmp_path / "run"

    def command(steps, *more):
        return flags("sv3d_tiny", "vae_tiny", toys, run, "crop=16", "batch=1", "schedule=constant", f"steps={steps}",
                     more=more)
    code, said = launch(command(10000), tmp_path, 8233 + rank, join=False)
    assert code == 0, said
    end_one(rank, run, tmp_path, lambda: (run / "state.safetensors").exists())
    done = int(rows_of(run)[-1, 0])
    code, said = launch(command(done + 3, "--resume"), tmp_path, 8235 + rank)
    assert code == 0, said
    assert list(rows_of(run)[:, 0]) == list(range(1, done + 4)) and not list((run / ".processes").iterdir())


@pytest.mark.slow
def test_kill_9_while_clips_are_encoded(tmp_path):
    """The other one neither waits for clips that do not come nor takes them on; a new start encodes what is missing only."""
    toys, run = write_toys(tmp_path / "toys", count=40), tmp_path / "run"
    command = flags("sv3d_tiny", "sv3d_tiny", toys, run, "batch=1", "frames=0", "steps=1", model_changes=POSED)

    def entries():
        return {path: path.stat().st_ino for path in (tmp_path / "cache").glob("*/*.npy")}
    code, said = launch(command, tmp_path, 8239, join=False, script="tests/support/slow_encoding.py")
    assert code == 0, said
    end_one(1, run, tmp_path, lambda: len(entries()) >= 4)
    before = entries()
    assert 4 <= len(before) < 40 and not (run / "state.safetensors").exists()
    code, said = launch(command, tmp_path, 8240)
    assert code == 0, said
    after = entries()
    assert len(after) == 40 and before.items() <= after.items() and len(rows_of(run)) == 1


def end_one(rank, run, folder, condition):
    """Kill one of the two processes of a run when `condition()` holds; the other then ends with a line on that.

    folder: where `launch` has put the logs."""
    log, pids = (folder / "logs" / f"worker_{1 - rank}.log").read_text, set()
    try:
        wait_for(condition, log)
        pids = {int(path.name.rpartition("-")[2]) for path in (run / ".processes").iterdir()}
        assert len(pids) == 2
        first = {pid for pid in pids if b"RANK_ID=0" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        gone, = first if rank == 0 else pids - first
        other, = pids - {gone}
        os.kill(gone, signal.SIGKILL)
        since = time.monotonic()
        wait_for(lambda: not alive(other), log)
        assert time.monotonic() - since < 10
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    line = log().strip().splitlines()[-1]
    assert line.startswith("train.py: process ") and line.count(f"-{gone} of this run has ended: it was killed") == 1, log()
    assert "Traceback" not in log()


def alive(pid):
    """Whether the process runs: one that has ended and that nobody waits for is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, log):
    since = time.monotonic()
    while not condition():
        assert time.monotonic() - since < 300, log()
        time.sleep(0.1)


@pytest.mark.slow
def test_validation_cannot_time_the_others_out(tmp_path):
    """One that takes longer than MindSpore waits for a heartbeat, which on a CPU is also how long a collective waits."""
    toys, run = write_toys(tmp_path / "toys"), tmp_path / "run"
    code, said = launch(flags("sv3d_tiny", "vae_tiny", toys, run, "crop=16", "batch=1", "steps=2", f"val=[{toys}]"), tmp_path,
                        8237, script="tests/support/slow_validation.py", MS_NODE_TIMEOUT="8")
    assert code == 0, said
    assert len(rows_of(run)) == 2 and said.count("ended with 0 in MS_WORKER") == 2


def test_without_the_launcher(tmp_path, capsys):
    toys = write_toys(tmp_path / "toys")
    assert train.run(flags("sv3d_tiny", "vae_tiny", toys, tmp_path / "run", more=["--distributed"])) == 2
    assert "--distributed: found no other processes, expected to be started by" in capsys.readouterr().err
