"""Several processes, started by MindSpore's own launcher."""
import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT
from training import flags, write_toys

import train
from sgm.checkpoint import open_checkpoint

MSRUN = [str(Path(sys.executable).with_name("msrun")), "--worker_num=2", "--local_worker_num=2", "--join=True"]


def launch(argv, folder, port):
    """(exit code, what was said) of train.py in two processes."""
    # msrun starts "python"; the one of this environment
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [*MSRUN, f"--master_port={port}", f"--log_dir={folder / 'logs'}", "train.py", *argv, "--distributed"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout + done.stderr


def rows_of(run):
    with open(run / "metrics.csv") as file:
        return np.array([[float(row[name]) for name in ("step", "loss", "grad_norm", "lr", "val_loss")]
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


def test_without_the_launcher(tmp_path, capsys):
    toys = write_toys(tmp_path / "toys")
    assert train.run(flags("sv3d_tiny", "vae_tiny", toys, tmp_path / "run", more=["--distributed"])) == 2
    assert "--distributed: found no other processes, expected to be started by" in capsys.readouterr().err
