"""Files of conditions: what each object of a data set is, as `latent_diffusion` learns it.

A .safetensors file with either `labels` (N,) int32, places in the list of classes that its metadata
has, or `tokens` (N, K, T, W) float32, K equally good conditions of each object (views of it,
captions). Objects are in the order of the data that the autodecoder was trained on; where the
metadata has a hash of their names, this is checked.
"""
import json

import numpy as np

from sgm.autodecoder.noted import NAMES
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.config.yaml_reader import ConfigError

LABELS, TOKENS, CLASSES, TOWER = "labels", "tokens", "classes", "tower"


def write_labels(path, labels, classes, names=""):
    """Write the classes (N,) of objects, places in the list of names `classes`.

    names: a hash of the objects' names, as `MaskedViews.names_hash` returns it.
    """
    save_safetensors(path, {LABELS: np.asarray(labels, np.int32)},
                     {CLASSES: json.dumps(classes), NAMES: names})


def write_tokens(path, tokens, tower="", names=""):
    """Write tokens (N, K, T, W); tower: the model of views that made them of images."""
    save_safetensors(path, {TOKENS: np.asarray(tokens, np.float32)}, {TOWER: tower, NAMES: names})


def read_conditions(path, spec, names=""):
    """Return the tokens (N, K, T, W) of a file for an AutodecoderSpec. Raises InputError.

    names: a hash of the names of the objects that the autodecoder was trained on, "": not known.
    """
    store, wanted = open_checkpoint(path), spec.diffusion.condition
    name = LABELS if wanted.kind == "class" else TOKENS
    if name not in store:
        raise ConfigError(f"conditions: {path}: found no {name}, expected them for"
                          f" diffusion.condition.kind {wanted.kind}")
    found = np.array(store.read(name))
    expected = (spec.objects,) if name == LABELS else (spec.objects, -1, *wanted.shape)
    fits = len(found.shape) == len(expected) and all(
        wide == other or other == -1 for wide, other in zip(found.shape, expected))
    if not fits or not np.isfinite(found).all():
        raise ConfigError(f"conditions: {path}: found {name} of shape {found.shape}, expected"
                          f" finite numbers of shape {str(expected).replace('-1', 'any')}")
    told = store.metadata.get(NAMES)
    if told and names and told != names:
        raise ConfigError(f"conditions: {path}: found those of other objects, expected those that"
                          " the autodecoder was trained on; give tools/describe_objects.py the same"
                          " sets in the same order")
    if name == LABELS and found.dtype.kind not in "iu":
        raise ConfigError(f"conditions: {path}: found {name} of type {found.dtype}, expected"
                          " int32")
    if name == TOKENS:
        tower = store.metadata.get(TOWER, "")
        if wanted.kind == "image" and tower != wanted.tower:
            raise ConfigError(f"conditions: {path}: found tokens of the tower of"
                              f" {tower or 'no model'}, expected {wanted.tower}, as"
                              " diffusion.condition.tower says")
        return np.float32(found)
    try:
        classes = json.loads(store.metadata[CLASSES])
    except (KeyError, ValueError, TypeError):
        classes = None
    if classes != list(wanted.labels):
        raise ConfigError(f"conditions: {path}: found the classes {classes}, expected"
                          f" {list(wanted.labels)}, as diffusion.condition.labels says")
    if found.min() < 0 or found.max() >= len(classes):
        raise ConfigError(f"conditions: {path}: found class {found.max()}, expected 0 to"
                          f" {len(classes) - 1}")
    return np.eye(len(classes), dtype=np.float32)[found][:, None, None]
