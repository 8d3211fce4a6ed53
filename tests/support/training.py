"""What the tests of train.py share: a data set, models that compile in seconds, the command's flags."""
import numpy as np
import yaml

from sgm.audit.golden_weights import init_weight
from sgm.checkpoints.original_keys import used_shapes

# An autoencoder of 32 x 32 pixels beside a UNet that is never run.
AUTOENCODER = ["vae.ch_mult=[1,1]", "vae.z_channels=2", "unet.in_channels=4", "unet.out_channels=2", "height=32", "width=32",
               "num_frames=3"]
# A posed network of three views; its middle has attention.
POSED = ["num_frames=3", "height=32", "width=32", "unet.channel_mult=[1]", "unet.attention_resolutions=[]",
         "unet.num_res_blocks=1", "unet.model_channels=32", "unet.num_head_channels=32", "unet.context_dim=32",
         "vae.ch_mult=[1,1,1]", "clip.image_size=16", "clip.patch_size=8", "clip.width=64", "clip.layers=1",
         "clip.head_width=32", "clip.embed_dim=32", "condition.scalar_dim=8", "condition.angle_dim=8"]


def write_toys(folder, count=4, side=32):
    """Clips of three views of noise, as tools/render_orbits.py --pack writes them; -> folder."""
    folder.mkdir()
    rng = np.random.RandomState(0)
    np.save(folder / "clips.npy", rng.randint(0, 256, (count, 3, side, side, 3)).astype(np.uint8))
    np.save(folder / "azimuths.npy", np.tile(np.float32([120, 240, 0]), (count, 1)))
    np.save(folder / "elevations.npy", np.full((count, 3), 10, np.float32))
    return folder


def flags(model, recipe, data, output, *changes, model_changes=AUTOENCODER, more=()):
    """Those of train.py; changes: key=value of the recipe, after which all is small and quick."""
    command = ["--model_cfg", str(model), "--train_cfg", str(recipe), "--output", str(output), *map(str, more)]
    values = [f"data=[{data}]", "batch=2", "save_every=1", "log_every=1", "warmup=1", *changes]
    for flag, settings in (("--set", values), ("--model-set", model_changes)):
        for setting in settings:
            command += [flag, setting]
    return command


def write_model(path, embedders, **changes):
    """A model's YAML file with networks that compile in seconds; -> path."""
    model = {
        "name": path.stem, "num_frames": 3, "height": 32, "width": 32,
        "unet": {"model_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": [],
                 "num_head_channels": 32, "context_dim": 32},
        "vae": {"ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "decoder": "image"},
        "clip": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1, "head_width": 32, "embed_dim": 32},
        "condition": {"embedders": embedders, "scalar_dim": 8, "angle_dim": 16},
        "sampling": {"steps": 2, "guidance": "triangle"}, **changes}
    path.write_text(yaml.safe_dump(model))
    return path


SVD = ["cond_frames_without_noise", "fps_id", "motion_bucket_id", "cond_frames", "cond_aug"]
SV3D_U = ["cond_frames_without_noise", "cond_frames", "cond_aug"]
SV3D_P = [*SV3D_U, "polars_rad", "azimuths_rad"]


def drawn(spec):
    """{published key: array} of a model, all random."""
    return {key: np.asarray(init_weight(key, shape), np.float32) for key, shape in used_shapes(spec).items()}
