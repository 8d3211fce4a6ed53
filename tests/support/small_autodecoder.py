"""An autodecoder that takes a second, views of objects for it, and weights whose objects can be seen."""
import json
from dataclasses import asdict

import numpy as np

# Volumes of 16^3, latents of 8^3 x 8.
CHANGES = ["objects=3", "size=16", "samples=8", "embedding.length=8", "volume.side=16", "volume.channels=16",
           "diffusion.channels=8", "diffusion.multipliers=[1]", "diffusion.depth=1", "diffusion.attention=[]",
           "diffusion.head_width=8", "diffusion.norm_groups=2"]
VIEWS = 6


def write_objects(folder, count=3, side=16, views=VIEWS, shared=True):
    """Colored balls of different size and color, as `render_orbits.py --pack` writes them; -> folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side - 0.47
    clips = np.zeros((count, views, side, side, 4), np.uint8)
    for k in range(count):
        clips[k, ..., :3] = rng.integers(40, 255, 3)
        clips[k, ..., 3] = 255 * (x ** 2 + y ** 2 < 0.02 + 0.04 * k)
    azimuths = np.tile((np.arange(1, views + 1) * 360 / views % 360).astype(np.float32), (count, 1))
    elevations = np.full((count, views), 10, np.float32)
    if not shared:
        elevations += np.arange(count, dtype=np.float32)[:, None]
    for name, values in (("clips", clips), ("azimuths", azimuths), ("elevations", elevations)):
        np.save(folder / f"{name}.npy", values)
    return folder


def flags(task, data, output, *changes, more=(), model_changes=()):
    """Those of train.py for one of its two stages."""
    recipe = "autodecoder_small" if task == "autodecoder" else "autodecoder_diffusion"
    values = ["batch=2", "save_every=9", "log_every=1", "warmup=1", "sheet_every=0", "hold_out=3", "val_batches=1"]
    if task == "autodecoder":
        values += [f"data=[{data}]", "crop=8", "views=2"]
    values += changes           # the last one of a key counts
    command = ["--model_cfg", "autodecoder_small", "--train_cfg", recipe, "--output", str(output), *map(str, more)]
    for flag, settings in (("--set", values), ("--model-set", [*CHANGES, *model_changes])):
        for setting in settings:
            command += [flag, setting]
    return command


def write_weights(path, *changes):
    """Random weights of both stages, whose objects are lumps of many parts; -> path."""
    from mindspore import Tensor

    from sgm.autodecoder.latents.latent_normalization import Normalization
    from sgm.autodecoder.object_model import ObjectModel
    from sgm.checkpoints.safetensors_format import save_safetensors
    from sgm.config.autodecoding import load_autodecoder_spec
    from sgm.models.initialization import initialize
    spec = load_autodecoder_spec("autodecoder_small", [*CHANGES, *changes])
    model, rng = ObjectModel(spec, True), np.random.default_rng(1)
    initialize(model, 0)
    for parameter in model.denoiser.get_parameters():
        if not parameter.asnumpy().any():
            parameter.set_data(Tensor(rng.normal(0, 0.05, parameter.shape).astype(np.float32)))
    out = model.radiance_decoder.out
    out.weight.set_data(Tensor(6 * out.weight.asnumpy()))
    out.bias.set_data(Tensor(np.float32([4, 0, 0, 0])))
    model.keep_normalization(Normalization(0.0, 1.0, 0.5, 8.0))
    save_safetensors(path, {p.name: p.asnumpy() for p in model.get_parameters()},
                     {"spec": json.dumps(asdict(spec)), "hold_out": "3"})
    return path
