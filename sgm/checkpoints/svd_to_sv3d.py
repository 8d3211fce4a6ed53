"""SVD weights as the start of an SV3D fine-tuning: what the two models share is kept, by role and never by number.

The vector condition's columns go where the new model has that scalar; columns of a scalar that the old model does not
know (angles) are zero, so that the network starts out heedless of it. The decoder stays the old model's.
"""
from dataclasses import replace
from functools import partial

import numpy as np

from sgm.checkpoints.identify import VECTOR_KEY
from sgm.checkpoints.original_keys import FIRST_STAGE, image_embedders
from sgm.checkpoints.store import LazyTensor, View, passthrough
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import ConfigError


def start_spec(source, model):
    """The ModelSpec of `model` (a name, "sv3d_p") with the networks' widths and the decoder of the spec `source`."""
    target = load_spec(model)
    scalar = source.condition.scalar_dim
    angle = target.condition.angle_dim * scalar // target.condition.scalar_dim
    return replace(target, unet=source.unet, vae=source.vae, clip=source.clip,
                   condition=replace(target.condition, scalar_dim=scalar, angle_dim=angle))


def convert_conditioning(store, source, target):
    """A TensorStore of the model `source` (published names) -> View of the same weights for the model `target`.

    Both are ModelSpecs. Raises ConfigError unless they differ in their conditions only.
    """
    for part in ("unet", "vae", "clip"):
        if getattr(source, part) != getattr(target, part):
            raise ConfigError(f"{target.name}: {part}: found other sizes than {source.name}'s, expected the same")
    moves = list(zip(image_embedders(source), image_embedders(target)))
    rows = {}
    for key in store:
        old, new = next((move for move in moves if key.startswith(move[0])), ("", ""))
        done = f"renumbered from {old[:-1]}" if old != new else ""
        if key.startswith(FIRST_STAGE + "decoder."):
            done = f"{source.vae.decoder} decoder kept"
        rows[new + key.removeprefix(old)] = passthrough(store, key, done)
    begins, columns, done = _columns(source), [], []
    for name, width in target.vector_widths.items():
        begin = begins.get(name)
        if begin is not None and source.vector_widths[name] != width:
            raise ConfigError(f"{target.name}: {name}: found {width} columns, expected {source.vector_widths[name]} as in"
                              f" {source.name}")
        columns.append((begin, width))
        done.append(f"{name} columns {'zero' if begin is None else 'kept'}")
    done += [f"{name} columns dropped" for name in begins if name not in target.vector_widths]
    rows[VECTOR_KEY] = LazyTensor(((store, VECTOR_KEY),), partial(_rearranged, columns=columns), ", ".join(done),
                            store.dtype(VECTOR_KEY), (store.shape(VECTOR_KEY)[0], sum(target.vector_widths.values())))
    return View(store.path, store.format, rows, store.metadata)


def _columns(spec):
    """{scalar: its first column in the vector condition}."""
    widths = spec.vector_widths
    return dict(zip(widths, np.cumsum([0, *widths.values()]).tolist()))


def _rearranged(arrays, columns):
    weight = arrays[0]                          # as it is stored: zero bits are the number zero in every float type
    return np.concatenate([np.zeros((len(weight), width), weight.dtype) if begin is None
                           else weight[:, begin:begin + width] for begin, width in columns], 1)
