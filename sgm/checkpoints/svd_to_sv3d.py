"""SVD weights as initial weights of an SV3D fine-tuning: shared parts are kept by role, not number.

The vector condition's columns go where the new model has that scalar; columns of a scalar that the
old model does not know (angles) are zero, so the new condition has no effect before fine-tuning.
The decoder stays the old model's.
"""
from dataclasses import replace
from functools import partial

import numpy as np

from sgm.checkpoints.identify import VECTOR_KEY
from sgm.checkpoints.original_keys import FIRST_STAGE, image_embedders
from sgm.checkpoints.store import LazyTensor, TensorStore, View, passthrough
from sgm.config.model import ModelSpec
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import ConfigError


def start_spec(source: ModelSpec, model: str) -> ModelSpec:
    """Return the ModelSpec of `model` (a name, "sv3d_p") with the sizes and decoder of `source`."""
    target = load_spec(model)
    scalar = source.condition.scalar_dim
    angle = target.condition.angle_dim * scalar // target.condition.scalar_dim
    return replace(target, unet=source.unet, vae=source.vae, clip=source.clip,
                   condition=replace(target.condition, scalar_dim=scalar, angle_dim=angle))


def convert_conditioning(store: TensorStore, source: ModelSpec, target: ModelSpec) -> View:
    """Return a View, for the model `target`, of a TensorStore of the model `source`.

    Both are ModelSpecs; the store has the published names. Raises ConfigError unless the models
    differ in their conditions only.
    """
    for part in ("unet", "vae", "clip"):
        if getattr(source, part) != getattr(target, part):
            raise ConfigError(f"{target.name}: {part}: found other sizes than {source.name}'s,"
                              " expected the same")
    # Embedders change their numbers; the decoder is kept.
    moves = list(zip(image_embedders(source), image_embedders(target)))
    rows = {}
    for key in store:
        old, new = next((move for move in moves if key.startswith(move[0])), ("", ""))
        done = f"renumbered from {old[:-1]}" if old != new else ""
        if key.startswith(FIRST_STAGE + "decoder."):
            done = f"{source.vae.decoder} decoder kept"
        rows[new + key.removeprefix(old)] = passthrough(store, key, done)
    # The vector condition is put together column by column.
    firsts, columns, done = _columns(source), [], []
    for name, width in target.vector_widths.items():
        first = firsts.get(name)
        if first is not None and source.vector_widths[name] != width:
            raise ConfigError(f"{target.name}: {name}: found {width} columns, expected"
                              f" {source.vector_widths[name]} as in {source.name}")
        columns.append((first, width))
        done.append(f"{name} columns {'zero' if first is None else 'kept'}")
    done += [f"{name} columns dropped" for name in firsts if name not in target.vector_widths]
    shape = store.shape(VECTOR_KEY)[0], sum(target.vector_widths.values())
    rows[VECTOR_KEY] = LazyTensor(
        ((store, VECTOR_KEY),), partial(_rearranged, columns=columns), ", ".join(done),
        store.dtype(VECTOR_KEY), shape)
    return View(store.path, store.format, rows, store.metadata)


def _columns(spec):
    """Return {scalar: its first column in the vector condition}."""
    widths = spec.vector_widths
    return dict(zip(widths, np.cumsum([0, *widths.values()]).tolist()))


def _rearranged(arrays, columns):
    weight = arrays[0]      # as it is stored: zero bits are the number zero in every float type
    return np.concatenate([np.zeros((len(weight), width), weight.dtype) if first is None
                           else weight[:, first:first + width] for first, width in columns], 1)
