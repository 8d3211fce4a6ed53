"""The video UNet against the reference: outputs, every block, still-image frames, the shared context, width 64."""
import json
from functools import lru_cache

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors import safe_open

from golden_init import GOLDEN, init_weight
from sgm.specs import UNetSpec
from sgm.video.unet import VideoUNet

FRAMES = 5
INPUTS = ("x", "timesteps", "context", "y")


def inputs(golden):
    return [Tensor(golden[f"in/{name}"]) for name in INPUTS]


@pytest.mark.parametrize("name", ["sv3d_p", "sv3d_u", "svd"])
def test_outputs(name, golden, tiny_engine, agree):
    g, unet = golden(f"unet_{name}"), tiny_engine(name).model.diffusion_model
    x, timesteps, context, y = inputs(g)
    agree(f"unet_{name} y", unet(x, timesteps, context, y, FRAMES), g["out/y"])
    zeros = Tensor(g["in/image_only_indicator"])
    agree(f"unet_{name} y", unet(x, timesteps, context, y, FRAMES, zeros), g["out/y"])
    mixed = unet(x, timesteps, context, y, FRAMES, Tensor(g["in/image_only_indicator_mixed"]))
    agree(f"unet_{name} y_mixed", mixed, g["out/y_mixed"])
    same = Tensor(np.repeat(g["in/context"][::FRAMES], FRAMES, 0))
    agree(f"unet_{name} y_same_t_ctx", unet(x, timesteps, same, y, FRAMES), g["out/y_same_t_ctx"])
