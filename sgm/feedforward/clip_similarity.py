"""How like a picture or a text rendered views are, by CLIP: the metrics of VFusion3D.

Han et al. 2024 (arXiv 2403.12034) compare CLIP's embeddings of rendered views with that of the
input, and with that of the prompt where there is one. The image tower is here; a text's embedding
is made elsewhere.
"""
import re

import numpy as np
from mindspore import Tensor

from sgm import ops
from sgm.checkpoints.loading import load_weights
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError, View, passthrough
from sgm.common.arrays import read_npy
from sgm.common.errors import InputError
from sgm.config.model import ClipSpec
from sgm.models.clip import VisionTransformer, preprocess

TOWERS = ("class_embedding", "conv1.weight", "positional_embedding", "proj")
HEADS = {1280: 80, 1408: 88, 1664: 104}     # widths of heads that are not 64: ViT-H, g and bigG


def load_clip(path):
    """Return the `ClipImages` of a file that holds an image tower of OpenCLIP.

    That is OpenCLIP's own file, or one of SV3D, SVD or a model of ours, which are conditioned by
    such a tower. (OpenAI's weights have the same names and another activation.) Raises
    CheckpointError.
    """
    store = open_checkpoint(path)
    found = [key.removesuffix(TOWERS[0]) for key in store if re.search(r"(^|\.)class_embedding$",
                                                                       key)]
    found = [prefix for prefix in found if all(prefix + key in store for key in TOWERS)]
    if len(found) != 1:
        raise CheckpointError(f"{path}: found {len(found)} image towers of CLIP, expected one"
                              " (visual.class_embedding, visual.conv1.weight, ...); give OpenCLIP's"
                              " file, or the weights of an orbit model")
    part = View(store.path, store.format,
                {key.removeprefix(found[0]): passthrough(store, key) for key in store
                 if key.startswith(found[0])})
    tower = VisionTransformer(spec_of(part))
    load_weights(tower, part)
    return ClipImages(tower)


def spec_of(store):
    """Return the ClipSpec that the shapes of an image tower tell. Raises CheckpointError."""
    shapes = [store.shape(key) for key in TOWERS[1:]]
    if [len(shape) for shape in shapes] != [4, 2, 2]:
        raise CheckpointError(f"{store.path}: found shapes {shapes} of {', '.join(TOWERS[1:])},"
                              " expected those of an image tower of CLIP")
    (width, _, patch, _), (tokens, _), (_, embed_dim) = shapes
    layers = {key.split(".")[2] for key in store if key.startswith("transformer.resblocks.")}
    spec = ClipSpec(image_size=patch * round((tokens - 1) ** 0.5), patch_size=patch, width=width,
                    layers=len(layers), head_width=HEADS.get(width, 64), embed_dim=embed_dim)
    spec.validate()
    return spec


class ClipImages:
    """An image tower that is ready for use."""

    def __init__(self, tower):
        self.tower = tower
        self.width = tower.proj.shape[1]
        patch, tokens = tower.conv1.patch, tower.positional_embedding.shape[0] - 1
        self.size = patch * round(tokens ** 0.5)
        self._graph = None

    def embed(self, images):
        """Return embeddings (N, D) of length 1 of images (N, H, W, 3) uint8."""
        if self._graph is None:
            self._graph = ops.compiled(self.tower.construct)
        values = np.float32(images).transpose(0, 3, 1, 2) / 127.5 - 1
        found = ops.fetch(self._graph(Tensor(preprocess(values, self.size))))
        return unit(found)


def unit(rows):
    """Return rows (N, D) scaled to length 1."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def similarity(views, wanted):
    """Return the mean cosine of embeddings of views (N, D) and of the input or a text (D,)."""
    return float((views @ wanted).mean())


def read_texts(path, count, width):
    """Return embeddings (count, D) of length 1 of texts, of an .npy file (count, D).

    Raises InputError.
    """
    try:
        texts = np.float64(read_npy(path))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected numbers, .npy") from None
    if texts.shape != (count, width) or not np.isfinite(texts).all() or not texts.any(1).all():
        raise InputError(f"{path}: found numbers of shape {texts.shape}, expected ({count},"
                         f" {width}), finite, a row that is not 0 of each object in turn")
    return unit(texts)
