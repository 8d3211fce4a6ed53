"""The engine's face: every public call works in a fresh process, on an Engine that was only loaded, without any `with`.

The calls are made in one process of their own, each on an Engine of its own, and their results compared here.
"""
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.goldens import build_checkpoint, golden_file
from support.paths import ROOT

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.mindspore_format import write_ckpt

CALLS = r"""
import inspect, json, sys
from collections import Counter
from pathlib import Path
root, folder, goldens = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
sys.path.insert(0, root)
import numpy as np
from safetensors.numpy import load_file, save_file
import sgm
from sgm import ops
from sgm.diffusion import engine as engine_module

read, loads, made = engine_module.load_weights, Counter(), {}
config = Path(root, "sgm/audit/golden/tiny_sv3d_p.yaml")
engines = []

def counted(cell, weights, dtype=None, prefix=""):
    loads[len(engines), prefix] += 1
    return read(cell, weights, dtype, prefix)

engine_module.load_weights = counted

def fresh(ckpt="p.safetensors", **options):
    engines.append(ckpt)
    return sgm.load_model(config, ckpt if ckpt == "random" else folder / ckpt, **options)

def loaded():
    return {prefix: count for (number, prefix), count in loads.items() if number == len(engines)}

def keep(name, value):
    made[name] = np.ascontiguousarray(value.asnumpy() if hasattr(value, "asnumpy") else value)

def is_empty(engine):
    return not any(p.asnumpy().any() for p in engine.get_parameters())

g = load_file(goldens["unet_sv3d_p"])
network = [g[f"in/{name}"] for name in ("x", "timesteps", "context", "y")]
unet = fresh("p.ckpt").model.diffusion_model    # the Engine itself need not be kept
ops.set_jit(False)                              # compiled, the network takes ten seconds more each time
keep("unet mixed", unet(*network, num_video_frames=5, image_only_indicator=g["in/image_only_indicator_mixed"]))
ops.set_jit(True)
engine = fresh()
keep("unet", engine.model.diffusion_model(*map(engine_module.tensor, network), num_video_frames=5))

def quick(engine):
    # A network that only shows whether its weights are there, and in which precision it is called.
    def construct(x, timesteps, context, *rest):
        assert context.dtype == engine.dtype
        return (x[:, :4] + unet.out[2].bias.abs().sum()).astype(engine.dtype)

    unet = engine.model.diffusion_model
    unet.construct = construct
    return unet

def has_weights(result):
    return not np.allclose(result.asnumpy(), network[0][:, :4], atol=1e-2)

calls = [quick(engine)(*network, num_video_frames=5) for _ in range(20)]
assert all(map(has_weights, calls)) and loaded() == {"model.": 1}, loaded()
engine.release()
assert is_empty(engine)
assert has_weights(quick(engine)(*network, 5)) and loaded() == {"model.": 2}
half = quick(fresh(dtype="fp16"))(*network, num_video_frames=5)
assert has_weights(half) and half.dtype == engine_module.ms.float32
found = str(inspect.signature(engine.model.diffusion_model.__call__))
assert found == "(x, timesteps, context, y, num_video_frames, image_only_indicator=None)", found

# Compiled, one call after the other: every part is first used by the call itself.
g, engine = load_file(goldens["cond_sv3d_p"]), fresh()
scalars = {key: g[f"in/batch/{key}"] for key in ("polars_rad", "azimuths_rad")}
c, uc = engine.condition(g["in/image"], g["in/cond_noise"], cond_aug=float(g["in/batch/cond_aug"][0]), **scalars)
for key in c:
    keep(f"c/{key}", c[key])
    keep(f"uc/{key}", uc[key])
g = load_file(goldens["sample_sv3d_p"])
sides = [{key: g[f"in/{side}/{key}"] for key in ("crossattn", "concat", "vector")} for side in ("c", "uc")]
ops.set_jit(False)                              # compiled, the network takes half a minute longer
z = engine.sample(g["in/randn"], *sides)
ops.set_jit(True)
keep("sample", z)
keep("decode", engine.decode(g["out/z"], 5))
keep("by hand", engine.decode(z, 5))
assert loaded() == {"conditioner.": 1, "model.": 1, "first_stage_model.": 1}

# The pipeline holds one part at a time, whatever was loaded before, and keeps none.
ops.set_jit(False)
engine = fresh(overrides=("height=64", "width=64"))
engine.decode(g["out/z"][:, :, :8, :8], 5)
held = []

def watch(i, steps, estimate):
    held.append(set(engine._loaded))
    estimate()
    held.append(set(engine._loaded))

image = np.full((engine.spec.height, engine.spec.width, 4), 200, np.uint8)
views = sgm.generate(engine, image, sgm.Orbit.static(num_frames=5), steps=1, decode_chunk=5, on_step=watch)
assert held == [{"model"}] * 2 and is_empty(engine), held
keep("decode after generate", engine.decode(g["out/z"], 5))

# Each call on an Engine of its own.
engine = fresh()
denoise = engine.denoiser(*sides, np.full(5, 2.0))
engine.release()                                # the denoiser outlives it
keep("denoiser", denoise(engine_module.tensor(g["trace/x.5"]), g["trace/sigma.5"][0]))
random = fresh("random").decode(g["out/z"][:1], 1)
assert np.isfinite(random).all() and random.std() > 0
g = load_file(goldens["vae_klmodeonly"])
keep("encode", fresh().encode(g["in/img"]))
print(repr(engine))
print(repr(views))
save_file(made, folder / "made.safetensors")
"""
GOLDENS = ("unet_sv3d_p", "cond_sv3d_p", "vae_klmodeonly", "sample_sv3d_p")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{call: its result}, and the lines printed by the process of all calls."""
    folder = tmp_path_factory.mktemp("face")
    save_file(build_checkpoint("sv3d_p"), folder / "p.safetensors")
    write_ckpt(folder / "p.ckpt", open_checkpoint(folder / "p.safetensors"))
    paths = json.dumps({name: str(golden_file(f"{name}.safetensors")) for name in GOLDENS})
    result = subprocess.run([sys.executable, "-c", CALLS, str(ROOT), str(folder), paths], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return load_file(folder / "made.safetensors"), result.stdout.splitlines()


def test_diffusion_model(made, golden, agree):
    g = golden("unet_sv3d_p")
    agree("unet_sv3d_p y, through the engine", made[0]["unet"], g["out/y"])
    agree("unet_sv3d_p y_mixed, through the engine", made[0]["unet mixed"], g["out/y_mixed"])


def test_condition(made, golden, agree):
    g = golden("cond_sv3d_p")
    for side in ("c", "uc"):
        for key in ("crossattn", "concat", "vector"):
            agree(f"cond_sv3d_p {side}/{key}, fresh", made[0][f"{side}/{key}"], g[f"out/{side}/{key}"])


def test_encode(made, golden, agree):
    g = golden("vae_klmodeonly")
    agree("vae_klmodeonly z_mode, fresh", made[0]["encode"], g["out/z_mode"] * np.float32(0.18215))


def test_sample_and_denoiser(made, golden, agree):
    g = golden("sample_sv3d_p")
    agree("sample_sv3d_p z, fresh", made[0]["sample"], g["out/z"], 2e-4)
    uncond, cond = np.split(g["trace/denoised_uncond_cond.5"], 2)
    agree("sample_sv3d_p denoised, fresh", made[0]["denoiser"], uncond + 2 * (cond - uncond))


def test_decode(made, golden, agree):
    g = golden("sample_sv3d_p")
    for name in ("decode", "decode after generate"):
        agree(f"sample_sv3d_p frames_raw, {name}", made[0][name], g["out/frames_raw"])
    agree("sample_sv3d_p frames_raw, by hand", made[0]["by hand"], g["out/frames_raw"], 2e-4)


def test_repr_is_one_line(made):
    engine, views = made[1][-2:]
    assert engine.startswith("<Engine ") and engine.endswith("float32, p.safetensors>")
    assert views.startswith("<Views: 5 views of ")
