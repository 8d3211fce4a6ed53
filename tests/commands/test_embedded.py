"""The weights of the small model from nothing but the furniture libraries, at small scale."""
import subprocess
import sys
import zipfile

import pytest
from support.paths import ROOT

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.render.catalogue import PROPERTIES, read_list

LIBRARY = "KatorLegaz"
WEDGE = "v 0 0 0\nv 2 0 0\nv 2 0 1\nv 0 0 1\nv 0 4 0\nv 2 4 0\nf 1 2 3 4\nf 1 5 6 2\nf 4 3 6 5\nf 1 4 5\nf 2 6 3\n"
FLAGS = ("steps=2", "batch=2", "val_batches=1", "sheet_clips=1", "sheet_steps=1", "predicted_clips=2")


@pytest.fixture
def furniture(tmp_path):
    """A folder with a library of the list, all of whose objects are a wedge."""
    with zipfile.ZipFile(tmp_path / f"{LIBRARY}.sh3f", "w") as archive:
        lines = []
        for row in read_list():
            if row["library"] == LIBRARY:
                number, model = row["id"], f"models/{row['id']}/{row['file']}"
                lines += [f"model#{number}=/{model}", f"width#{number}=2", f"height#{number}=4", f"depth#{number}=1"]
                archive.writestr(model, WEDGE)
        archive.writestr(PROPERTIES, "\n".join(lines))
    return tmp_path


@pytest.mark.slow
def test_from_the_libraries_to_the_weights(furniture):
    """Every stage runs; what is finished is left out; a training that is to go on continues."""
    def make(target, steps=2):
        flags = " ".join(f"--set {flag}" for flag in FLAGS).replace("steps=2", f"steps={steps}", 1)
        done = subprocess.run(["make", "-f", str(ROOT / "Makefile"), target, f"FURNITURE={furniture}", "TOYS=2", "FORMS=1",
                               f"RUN={sys.executable}", f"FLAGS={flags}"], cwd=furniture, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    make("embedded")
    made = open_checkpoint(furniture / "runs" / "sv3d_small.safetensors")
    assert (furniture / "runs" / "sv3d_small.safetensors").stat().st_size < 30e6 and len(made) > 800
    assert "Nothing to be done" in make("embedded")
    (furniture / "runs" / "sv3d_small" / "finished").unlink()
    assert "at step 2; steps: 2, now 3" in make("runs/sv3d_small/finished", 3)
