"""A training that compiles at once: a posed model of three views with a network of two layers, on batches of noise."""
import math
import zlib

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from support.goldens import PACKAGED
from support.training import POSED

from sgm import ops
from sgm.config.model_files import load_spec
from sgm.config.recipe import Recipe
from sgm.diffusion.engine import Engine
from sgm.models.blocks import Linear
from sgm.models.initialization import initialize
from sgm.train.trainer import Trainer

SPEC = load_spec(PACKAGED / "tiny_sv3d_p.yaml", POSED)
VECTOR = sum(SPEC.vector_widths.values())


class Noise:
    """Batches of noise, or not of numbers at all where `bad` says so."""

    def __init__(self, bad=()):
        self.clips, self.bad, self.num_frames = self, bad, 3

    def __len__(self):
        return 4

    def clip_indices(self, number):
        return [number % 4]

    def __call__(self, number):
        rng = np.random.default_rng(number)
        x0, noise, concat = (rng.standard_normal((3, 4, 8, 8), dtype=np.float32) for _ in range(3))
        sigma = np.full(3, math.nan if number in self.bad else math.exp(rng.standard_normal()), np.float32)
        return (x0, noise, sigma, rng.standard_normal((3, 1, 32), dtype=np.float32), concat,
                rng.standard_normal((3, VECTOR), dtype=np.float32))


class ToyNetwork(nn.Cell):
    """Two layers, one of which is over frames by its name."""

    def __init__(self):
        super().__init__()
        self.first, self.time_stack = Linear(256, 32), nn.CellList([Linear(32, 256)])


class ToyDenoiser(nn.Cell):
    """What a `Denoiser` is called like, and compiles at once."""

    def __init__(self):
        super().__init__()
        self.diffusion_model = ToyNetwork()

    def prepare(self, crossattn, num_frames):
        return crossattn.reshape(-1, 32)

    def construct(self, x, sigma, prepared, concat, vector, image_only, num_frames):
        network, rows = self.diffusion_model, x.reshape(-1, 256)
        hidden = ops.silu(network.first(rows.astype(prepared.dtype)) + prepared)
        return x * 0.1 + network.time_stack[0](hidden).astype(ms.float32).reshape(x.shape)


class ToyEngine(nn.Cell):
    """An Engine with a `ToyDenoiser`."""

    def __init__(self):
        super().__init__()
        self.spec, self.model = SPEC, ToyDenoiser()
        for name, parameter in self.parameters_and_names():
            parameter.name = name

    def release(self):
        ops.release()


def engine_of(seed=0, make=Engine):
    """Every weight drawn, also those that start at zero: so every part has a gradient."""
    engine = make(SPEC) if make is Engine else make()
    initialize(engine, seed)
    for name, parameter in engine.model.parameters_dict().items():
        if not parameter.asnumpy().any():
            drawn = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode())).randn(*parameter.shape)
            parameter.set_data(Tensor(0.05 * drawn.astype(np.float32)))
    return engine


def trainer_of(seed=0, bad=(), held_out=None, make=ToyEngine, **changes):
    options = {"seed": 5, "steps": 8, "lr": 1e-2, "warmup": 0, "average_decay": 0.5, **changes}
    return Trainer(engine_of(seed, make), Recipe(**options), Noise(bad), held_out)
