"""Where the goldens lie, how near to come to them, and small checkpoints with their weights."""
import json
from functools import cache

import numpy as np
from safetensors import safe_open
from support.paths import GOLDEN

from sgm.audit.golden_weights import GOLDEN as PACKAGED
from sgm.audit.golden_weights import init_weight
from sgm.config.model import UNetSpec

TIGHT = dict(rtol=5e-6, atol=1e-7)      # of every element: the values span six decades


def golden_file(name):
    """The path of a golden: in tests/golden, or in the package where tools/check.py needs it too."""
    return next(folder / name for folder in (GOLDEN, PACKAGED) if (folder / name).exists())


def manifest(name):
    """{key: shape} of the small checkpoint "svd", "sv3d_u" or "sv3d_p"."""
    return json.loads((GOLDEN / f"tiny_{name}.manifest.json").read_text())


@cache
def golden_weight(key, shape):
    """The float32 array of a parameter, which cannot be changed: drawing those of a model takes a third of a second."""
    array = np.asarray(init_weight(key, shape), np.float32)
    array.setflags(write=False)
    return array


def build_checkpoint(name):
    """{published key: float32 array} of the small checkpoint "svd", "sv3d_u" or "sv3d_p"."""
    return {key: golden_weight(key, tuple(shape)) for key, shape in manifest(name).items()}


def unet_of(name):
    """The UNetSpec of a golden file's network, and the width of its vector."""
    with safe_open(golden_file(f"{name}.safetensors"), "np") as file:
        config = json.loads(file.metadata()["cfg"])
    fields = ("in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks",
              "attention_resolutions", "num_head_channels", "context_dim")
    return UNetSpec(**{key: config[key] for key in fields}), config["adm_in_channels"]
