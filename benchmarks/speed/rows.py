"""The rows of the table: what is compared, how often, and what is aimed at."""
from dataclasses import replace
from typing import NamedTuple

import fields
import gemm
import steps
import triposr
import twins
import whole_run

from sgm.config.model_files import load_spec
from sgm.config.reconstruction import NerfSpec


class Row(NamedTuple):
    """One comparison; its case's module has `draw_weights`, `ours` and `theirs`."""
    title: str
    case: object
    small: object               # the same on small networks, for a trial
    targets: dict               # {task: (ours / torch in time, in own memory)}; 0 is no target
    repeat: int                 # timed runs after the first
    alone: bool = False         # one process lives at a time: both do not fit in memory
    warm: bool = True           # whether the first run is left out of the median


def _twin(network, frames=1, side=0, small=8):
    return (twins.Case(network, twins.FULL, frames, side, side),
            twins.Case(network, twins.SMALL, min(frames, 3), small, small))


def _field(rays, samples):
    return fields.Case(fields.tasks(rays, samples))


def _orbit(small):
    spec = load_spec("sv3d_p", ())
    if not small:
        return whole_run.Case(spec, 2)
    condition = replace(spec.condition, scalar_dim=twins.SMALL.condition.scalar_dim)
    return whole_run.Case(replace(spec, unet=twins.SMALL.unet, vae=twins.SMALL.vae,
                                  clip=twins.SMALL.clip, condition=condition, num_frames=4,
                                  height=64, width=64), 1)


def rows():
    """Return {name: Row}, the quick ones first, those of one network together.

    sv3d's and svd's networks have the same layers.
    """
    default = NerfSpec()
    return {
        "clip": Row("image tower (CLIP ViT-H)", *_twin("clip"), {"embed": (1.0, 1.1)}, 5),
        "train": Row("training step, 57.6 M parameters, 21 x 16 x 16",
                     steps.case_of(steps.TRAIN, 21, 16), steps.case_of(twins.SMALL, 3, 8),
                     {"step": (1.0, 1.5)}, 7),
        "nerf": Row("training step of the radiance field", _field(default.rays, default.samples),
                    _field(64, 8), {"step, dense": (0, 0), "step, hash": (0, 0)}, 15),
        "triposr": Row("TripoSR, 512 x 512, grid of 256^3", triposr.Case(triposr.FULL, 256),
                       triposr.Case(triposr.SMALL, 16),
                       {"planes": (1.0, 1.2), "densities": (1.0, 1.2)}, 2),
        "vae-256": Row("VAE, a frame of 256 x 256", *_twin("vae", 1, 32),
                       {"encode": (0.95, 1.2), "decode": (0.95, 1.2)}, 5),
        "vae-576": Row("VAE, a frame of 576 x 576", *_twin("vae", 1, 72),
                       {"encode": (0.95, 1.2), "decode": (0.95, 1.2)}, 3),
        "temporal-256": Row("temporal decoder, 21 x 256 x 256", *_twin("vae", 21, 32),
                            {"decode": (0.85, 1.2)}, 2),
        "unet-24": Row("UNet, 21 x 24 x 24 latents", *_twin("unet", 21, 24),
                       {"evaluate": (0.80, 1.2)}, 3),
        "unet-40": Row("UNet, 21 x 40 x 40 latents", *_twin("unet", 21, 40),
                       {"evaluate": (0.80, 1.2)}, 2),
        "unet-72": Row("UNet, 21 x 72 x 72 latents", *_twin("unet", 21, 72),
                       {"evaluate": (0.85, 1.2)}, 1, alone=True),
        "run-576": Row("sv3d_p, 21 x 576 x 576, 2 steps", _orbit(False), _orbit(True),
                       {"run": (0.85, 0)}, 1, alone=True, warm=False)}


def product():
    """Return the row of the product of two matrices, which every call measures first."""
    case = gemm.Case(2048)
    return Row("product of 2048 x 2048 matrices", case, case, {"product": (0, 0)}, 9)
