"""One flipped bit in a file that a later run reads again: a line that names the file, or no effect."""
import json
import random
import zlib

import numpy as np
import pytest
from support.training import write_toys

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.common.errors import InputError
from sgm.config.model import ModelSpec
from sgm.config.recipe import Recipe
from sgm.reconstruct.pipeline import _of_surface
from sgm.reconstruct.stage_files import Work, load_state, restore_state, save_state
from sgm.render.sets.claims import claim
from sgm.render.sets.packing import _make_arrays, _rows_to_do
from sgm.render.sets.settings import OrbitSettings
from sgm.train.data.clips import Memo
from sgm.train.data.latent_cache import LatentStore
from sgm.train.data.packed import load_packed
from sgm.train.run.beginning import read_beginning, write_beginning
from sgm.train.run.log import FIELDS, parse_metrics
from sgm.train.run.run_folder import numbers_of

SHAPE = (3, 9)
STATE = {"step": 7, "updates": 6, "skipped": 1, "bad": 0, "best": 0.5, "scale": {"value": 1.0, "good": 0}, "world": 1,
         "recipe": {"lr": 0.1}, "model": {"name": "a"}}


def cache_entry(folder):
    store = LatentStore(folder / "cache", 1)
    store.write("ab12", np.arange(27).reshape(SHAPE))
    return store.path("ab12"), lambda: store.read("ab12", SHAPE).tolist()


def packed_set(name):
    def make(folder):
        toys = write_toys(folder / "toys", 2, 8)
        return toys / f"{name}.npy", lambda: [a.shape for a in load_packed(toys).values()]
    return make


def unfinished_set(name):
    def make(folder):
        objects = ["chair", "table", "lamp"]
        _make_arrays(folder, folder, objects, 2, 8)
        return folder / f"{name}.npy", lambda: _rows_to_do(folder, objects, 2, 8)
    return make


def stage_settings(folder):
    work = Work(folder)
    save_state(work.file("nerf"), {"step": np.array(3)})
    work.note("nerf", {"views": "ab", "nerf": {"lr": 0.5, "levels": [1, 2]}}, keep=True)
    save_state(work.file("nerf"), {"step": np.array(3)})
    return folder / "nerf.json", lambda: type(work.differing("nerf", {"views": "ab"}))


def stage_state(folder):
    path = Work(folder).file("surface")
    save_state(path, {"sdf": np.zeros((3, 3, 3), np.float32), "chosen": np.array(json.dumps({"a": 1}))})

    def read():
        sdf, chosen = restore_state(path, _of_surface, load_state(path))
        return sdf.tolist(), chosen
    return path, read


def training_state(folder):
    path = folder / "state.safetensors"
    save_safetensors(path, {"w": np.zeros(2, np.float32)}, {"step": "7", "run": json.dumps(STATE)})
    return path, lambda: numbers_of(open_checkpoint(path))["step"]


def beginning(folder):
    write_beginning(folder, ["train.py", "--set", "lr=0.1"], Recipe(lr=0.1), ModelSpec(name="a"), ["lr=0.1"])
    return folder / "config.yaml", lambda: type(read_beginning(folder).recipe)


def metrics(folder):
    path = folder / "metrics.csv"
    path.write_text(",".join(FIELDS) + "\n" + "".join(f"{k},1.5,0.2,1e-03,{k}.5,3.000,0,,,\n" for k in (9, 10, 11)))

    def read():
        rows, trouble = parse_metrics(path)
        if trouble:
            raise InputError(trouble)
        return len(rows)
    return path, read


def memo(folder):
    path = folder / "memo.jsonl"
    file = folder / "x"
    file.write_text("x")
    Memo(path).of(file, "content", lambda: "ab")
    Memo(path).of(file, "frames", lambda: 12)
    return path, lambda: (Memo(path).of(file, "content", lambda: "ab"), Memo(path).of(file, "frames", lambda: 12))


def render_note(folder):
    record = OrbitSettings(size=8, frames=2).record()
    claim(folder / "out", record)
    return folder / "out/render.json", lambda: claim(folder / "out", record)


COUNT = 30      # bits of each file; the slow test takes more
FILES = {"cache": cache_entry, "clips": packed_set("clips"), "azimuths": packed_set("azimuths"), "done": unfinished_set("done"),
         "names": unfinished_set("names"), "unfinished": unfinished_set("clips"), "settings": stage_settings,
         "stage": stage_state, "state": training_state, "config": beginning, "metrics": metrics, "memo": memo,
         "render": render_note}
HEADER = {"cache": 128, "clips": 128, "azimuths": 128, "done": 128, "names": 128, "unfinished": 128}   # .npy: numbers follow


@pytest.mark.parametrize("count", [COUNT, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", FILES)
def test_one_flipped_bit(kind, count, tmp_path):
    """The file is named, and nothing else is raised; what is read all the same is what was written."""
    path, read = FILES[kind](tmp_path)
    good, right = path.read_bytes(), read()
    size = HEADER.get(kind, min(len(good), 1200))
    count //= 1 + 2 * (kind == "config")        # a YAML file takes 15 ms
    bits = random.Random(zlib.crc32(kind.encode())).sample(range(8 * size), min(8 * size, count))
    refused = 0
    for bit in bits:
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            found = read()
        except InputError as refusal:
            assert path.name in str(refusal) or tmp_path.name in str(refusal), refusal
            refused += 1
        except Exception as error:
            raise AssertionError(f"bit {bit % 8} of byte {bit // 8} ({good[max(0, bit // 8 - 20):bit // 8 + 20]})") from error
        else:
            last = kind == "metrics" and bit // 8 > good[:-1].rindex(b"\n")     # a row that may be cut off
            assert found == right or last, f"bit {bit % 8} of byte {bit // 8} of {good[:200]}"
    assert refused or kind == "memo"


