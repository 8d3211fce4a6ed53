"""What a conditional denoiser is told: a class, an image by the tower of a model of views, a text.

All are tokens (tokens, width) of the spec's `ConditionSpec`.
"""
from pathlib import Path

import numpy as np

from sgm.common.arrays import read_npy
from sgm.common.errors import InputError, argument
from sgm.common.files import check_file
from sgm.config.yaml_reader import ConfigError


def condition_of(spec, label=None, image=None, text=None, tower_ckpt=None):
    """Return the tokens of a class's name, of an image file or of a text's embedding; None of none.

    spec: a ConditionSpec; text: a .npy file of (tokens, width) numbers, fewer tokens are filled up
    with zeros; tower_ckpt: weights of the tower's model, where they are not embedded. Raises
    InputError for a condition that the model was not trained with.
    """
    given = {"class": label, "image": image, "text": text}
    flags = {"class": argument("label"), "image": argument("image"), "text": argument("text")}
    for kind, value in given.items():
        if value is not None and kind != spec.kind:
            has = f"expected {flags[spec.kind]}" if spec.kind else "expected none"
            raise ConfigError(f"{flags[kind]}: found {value}, {has}: that is how the model was"
                              " trained")
    if not spec.kind or given[spec.kind] is None:
        return None
    if spec.kind == "class":
        return class_token(spec, label)
    return image_token(spec, image, tower_ckpt) if spec.kind == "image" else text_tokens(spec, text)


def class_token(spec, label):
    """Return (1, classes): 1 at the class's place. Raises ConfigError for an unknown name."""
    if label not in spec.labels:
        raise ConfigError(f"{argument('label')}: found {label}, expected one of"
                          f" {', '.join(spec.labels)}")
    return np.eye(len(spec.labels), dtype=np.float32)[spec.labels.index(label)][None]


def text_tokens(spec, path):
    """Return the tokens of a file. Raises InputError."""
    check_file(path)
    if not Path(path).is_file():
        raise InputError(f"{argument('text')} {path}: no such file; expected a .npy of"
                         f" {spec.tokens} x {spec.width} numbers")
    found = np.float32(read_npy(path))
    if found.ndim != 2 or found.shape[1] != spec.width or not 0 < len(found) <= spec.tokens:
        raise InputError(f"{argument('text')} {path}: found shape {found.shape}, expected"
                         f" ({spec.tokens}, {spec.width}), or fewer tokens")
    if not np.isfinite(found).all():
        raise InputError(f"{argument('text')} {path}: found NaN or infinity, expected numbers")
    return np.pad(found, ((0, spec.tokens - len(found)), (0, 0)))


class Tower:
    """The CLIP image tower of a model of views. Raises CheckpointError, ConfigError."""

    def __init__(self, name, ckpt=None):
        from sgm.diffusion.pipeline import load_model
        self.engine = load_model(name, ckpt)
        self.size = (self.engine.spec.height, self.engine.spec.width)

    def tokens(self, frames):
        """Return the tokens (N, 1, D) of frames (N, 3, H, W) float32 in [-1, 1], on white."""
        from sgm import ops
        clip = self.engine.conditioner.embedder("cond_frames_without_noise")
        with self.engine.weights_loaded("conditioner"):
            return np.concatenate([ops.fetch(clip.embed(frame[None])) for frame in frames])


def image_token(spec, path, tower_ckpt=None):
    """Return the token of an image file, whose object is cut out. Raises InputError."""
    from sgm.views.images import composite, load_image
    from sgm.views.preprocessing import prepare, to_network
    tower = Tower(spec.tower, tower_ckpt)
    prepared = prepare(load_image(path), tower.size, name=str(path))
    token = tower.tokens(to_network(composite(prepared[0])))[0]
    if token.shape != spec.shape:
        raise ConfigError(f"{spec.tower}: its tower makes tokens of {token.shape[1]} numbers,"
                          f" expected {spec.width}, as the autodecoder was trained with")
    return token
