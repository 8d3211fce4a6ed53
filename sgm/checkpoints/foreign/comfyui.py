"""Models as ComfyUI saves them: one autoencoder in place of two, CLIP under transformers' names.

The published files have the autoencoder's encoder among the embedders and the decoder as the first
stage. ComfyUI saves one autoencoder, of SVD as the first stage and of SV3D among the embedders.
"""
import logging
from functools import partial

import numpy as np

from sgm.checkpoints.diffusers.names import from_places, inverse, places
from sgm.checkpoints.original_keys import FIRST_STAGE, image_embedders, used_shapes
from sgm.checkpoints.store import LazyTensor, View, passthrough

log = logging.getLogger("sgm")
ONE = "the one autoencoder's"


def with_published_places(store, spec):
    """Return a TensorStore in which a model of ComfyUI has the keys of the ModelSpec.

    It is the same store if nothing lacks that could be found elsewhere in it. A line is logged for
    what is taken from where.
    """
    clip, vae = image_embedders(spec)
    inner, shapes = vae + "encoder.", used_shapes(spec)
    rows = dict(_clip(store, clip + "open_clip.model.visual.", shapes, spec))
    taken = {key for row in rows.values() for _, key in row.sources}
    # The encoder of the condition, from the first stage.
    encoder = {key: FIRST_STAGE + key.removeprefix(inner) for key in shapes
               if key.startswith(inner + "encoder.")}
    if _lacks(store, inner) and all(source in store for source in encoder.values()):
        rows.update({key: passthrough(store, source, ONE) for key, source in encoder.items()})
        rows.update(_quant_conv(store, inner + "quant_conv.", shapes))
        _say(store, f"{FIRST_STAGE}encoder is used for the condition image, too")
    # The decoder of SV3D, from the embedder: it is one of images, as SV3D's own.
    elif spec.is_orbit and _lacks(store, FIRST_STAGE + "decoder."):
        found = [key for key in store if key.startswith((
            inner + "decoder.", inner + "quant_conv.", inner + "post_quant_conv."))]
        if inner + "decoder.conv_in.weight" in found:
            rows.update({FIRST_STAGE + key.removeprefix(inner): passthrough(store, key, ONE)
                         for key in found})
            _say(store, f"{inner}decoder decodes the views")
    if not rows:
        return store
    kept = {key: passthrough(store, key) for key in store if key not in taken}
    return View(store.path, store.format, {**kept, **rows}, store.metadata)


def _lacks(store, prefix):
    return not any(key.startswith(prefix) for key in store)


def _say(store, what):
    log.warning("%s: holds one autoencoder, as ComfyUI saves a model: %s", store.path, what)


def _quant_conv(store, prefix, shapes):
    """Yield (key, LazyTensor) of the 1x1 convolution after the encoder.

    An encoder without it gives the moments itself: one that changes nothing stands for it.
    """
    for name in ("weight", "bias"):
        source, shape = f"{FIRST_STAGE}quant_conv.{name}", shapes[prefix + name]
        if source in store:
            yield prefix + name, passthrough(store, source, ONE)
        else:
            yield prefix + name, LazyTensor((), partial(_identity, shape=shape),
                                            "identity: this encoder has none", "F32", shape)


def _identity(_, shape):
    """Return the weight of a 1x1 convolution that changes nothing, or a bias of zeros."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    return np.eye(shape[0], dtype=np.float32).reshape(shape)


def _clip(store, prefix, shapes, spec):
    """Yield (published key, LazyTensor) of an image encoder under transformers' names."""
    if prefix + "vision_model.embeddings.class_embedding" not in store:
        return
    for key, shape in shapes.items():
        if not key.startswith(prefix):
            continue
        found = places(key, spec)
        sources = tuple((store, prefix + place.name) for place in found)
        if all(name in store for _, name in sources):
            make = partial(from_places, found=found) if found[0].how else None
            yield key, LazyTensor(sources, make, inverse(found), store.dtype(sources[0][1]), shape)
