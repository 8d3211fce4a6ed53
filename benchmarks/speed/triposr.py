"""TripoSR twice: ours on MindSpore, and one of diffusers' and transformers' parts on PyTorch.

Source of the network: Tochilkin et al. 2024 (arXiv 2403.02151) and the names and shapes of its
published file. Its vision transformer is transformers' ViTModel, its blocks are diffusers'
BasicTransformerBlock; norm, projections, transposed convolution and the network of points are
torch's own layers.
"""
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import twins

from sgm.audit.golden_weights import uniform
from sgm.config.lrm import DecoderSpec, EncoderSpec, LrmSpec, TriplaneSpec, VolumeSpec

FULL = LrmSpec(name="triposr", family="triposr",
               encoder=EncoderSpec(patch_size=16, image_size=224),
               triplane=TriplaneSpec(channels=40), decoder=DecoderSpec(layers=10),
               volume=VolumeSpec(radius=0.87, threshold=25.0))
SMALL = replace(FULL, image_size=64,
                encoder=replace(FULL.encoder, width=64, layers=2, heads=4, image_size=48),
                triplane=replace(FULL.triplane, width=64, layers=2, heads=4, side=8, channels=8))


class Case(NamedTuple):
    """What both sides compute: planes of one image, and the density on a grid of points."""
    spec: LrmSpec
    grid: int


def inputs(case):
    """Return the image (1, 3, S, S) in [0, 1] and planes (1, 3, C, R, R)."""
    triplane, side = case.spec.triplane, case.spec.image_size
    shape = 1, 3, triplane.channels, triplane.features_side, triplane.features_side
    return uniform("triposr.image", (1, 3, side, side)), uniform("triposr.planes", shape) - 0.5


def draw_weights(case, path):
    """Write the network's weights (see `twins.write_weights`)."""
    from sgm.feedforward.networks import build_network

    return twins.write_weights(build_network(case.spec).parameters_dict(), path)


def ours(case, weights):
    """Return {"planes": function, "densities": function} on MindSpore."""
    from sgm import ops
    from sgm.checkpoints.loading import load_weights
    from sgm.feedforward.networks import build_network
    from sgm.feedforward.reconstructor import Reconstructor

    ops.set_device("CPU")
    network = build_network(case.spec)
    load_weights(network, weights)
    lrm, (image, planes) = Reconstructor(case.spec, network), inputs(case)
    return {"planes": lambda: lrm.planes(lrm.encode(image)),
            "densities": lambda: np.log(lrm.grid(planes, case.grid))}


def theirs(case, weights):
    """Return the same on PyTorch."""
    import torch

    image, planes = map(torch.from_numpy, inputs(case))
    encoder, network = _their_network(case.spec, weights)

    def encode():
        with torch.inference_mode():
            mean, std = (torch.tensor(x).reshape(1, 3, 1, 1) for x in (twins.VIT_MEAN,
                                                                       twins.VIT_STD))
            tokens = encoder((image - mean) / std).last_hidden_state
            return network.planes(tokens).numpy()

    def densities():
        with torch.inference_mode():
            return network.densities(planes, case.grid).numpy()

    return {"planes": encode, "densities": densities}


def _their_network(spec, path):
    import torch
    from safetensors.torch import load_file
    from transformers import ViTConfig, ViTModel

    width, vit = spec.encoder.width, spec.encoder
    weights, prefix = load_file(path), "image_tokenizer.model."
    names = {"attention.attention.query": "attention.q_proj",
             "attention.attention.key": "attention.k_proj",
             "attention.attention.value": "attention.v_proj",
             "attention.output.dense": "attention.o_proj",
             "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}
    tower = {}
    for key in [key for key in weights if key.startswith(prefix)]:
        name = key.removeprefix(prefix).replace("encoder.layer.", "layers.")
        for old, new in names.items():
            name = name.replace(old, new)
        tower[name] = weights.pop(key)
    # transformers up to 4.43 resamples positions with a factor that is 0.1 patch too large
    key, side = "embeddings.position_embeddings", spec.image_size // vit.patch_size
    stored = tower[key][:, 1:].reshape(1, vit.grid, vit.grid, width).permute(0, 3, 1, 2)
    found = torch.nn.functional.interpolate(stored, scale_factor=(side + 0.1) / vit.grid,
                                            mode="bicubic", align_corners=False)
    tower[key] = torch.cat((tower[key][:, :1], found.flatten(2).transpose(1, 2)), 1)
    with torch.device("meta"):
        encoder = ViTModel(ViTConfig(
            hidden_size=width, num_hidden_layers=vit.layers, num_attention_heads=vit.heads,
            intermediate_size=vit.mlp_ratio * width, patch_size=vit.patch_size,
            image_size=spec.image_size, layer_norm_eps=1e-12), add_pooling_layer=False)
        network = _triplane_network(spec)
    encoder.load_state_dict(tower, assign=True)
    network.load_state_dict(weights, assign=True)
    return encoder.eval(), network.eval()


def _triplane_network(spec):
    import torch
    from diffusers.models.attention import BasicTransformerBlock
    from torch import nn

    width, heads = spec.triplane.width, spec.triplane.heads
    channels, points = spec.triplane.channels, spec.decoder

    class Network(nn.Module):
        """Everything behind the encoder, under the published names."""

        def __init__(self):
            super().__init__()
            side = spec.triplane.side
            self.tokenizer = nn.ParameterDict({"embeddings": torch.empty(3, width, side, side)})
            self.backbone = nn.ModuleDict({
                "norm": nn.GroupNorm(32, width, eps=1e-6), "proj_in": nn.Linear(width, width),
                "transformer_blocks": nn.ModuleList(
                    BasicTransformerBlock(width, heads, width // heads, activation_fn="geglu",
                                          cross_attention_dim=spec.encoder.width)
                    for _ in range(spec.triplane.layers)),
                "proj_out": nn.Linear(width, width)})
            self.post_processor = nn.ModuleDict(
                {"upsample": nn.ConvTranspose2d(width, channels, 2, stride=2)})
            widths = [3 * channels] + [points.width] * (points.layers - 1) + [4]
            layers = [layer for a, b in zip(widths, widths[1:])
                      for layer in (nn.Linear(a, b), nn.SiLU())]
            self.decoder = nn.ModuleDict({"layers": nn.Sequential(*layers[:-1])})

        def planes(self, tokens):
            start = self.tokenizer["embeddings"]
            x = start.transpose(0, 1).reshape(1, width, -1)
            h = self.backbone["norm"](x).transpose(1, 2)
            h = self.backbone["proj_in"](h)
            for block in self.backbone["transformer_blocks"]:
                h = block(h, encoder_hidden_states=tokens)
            h = self.backbone["proj_out"](h).transpose(1, 2) + x
            maps = h.reshape(width, *start.shape[:1], *start.shape[2:]).transpose(0, 1)
            return self.post_processor["upsample"](maps)[None]

        def densities(self, planes, grid):
            """Return the logarithm of the density; a slab of equal x at a time."""
            line, slabs = torch.linspace(-1, 1, grid), []
            for x in line:
                points = torch.stack(torch.meshgrid(x[None], line, line, indexing="ij"), -1)
                points = points.reshape(-1, 3)
                at = torch.stack((points[:, [0, 1]], points[:, [0, 2]], points[:, [1, 2]]))
                read = nn.functional.grid_sample(planes[0], at[:, None], align_corners=False)
                features = read[:, :, 0].reshape(3 * channels, -1).T
                raw = self.decoder["layers"](features)[:, 0] - 1
                slabs.append(raw.reshape(grid, grid))
            return torch.stack(slabs)

    return Network()
