"""Finds and reads the configuration of a model: ours, or one of the original's YAML files."""
from dataclasses import fields

from sgm.config.autodecoding import KIND, AutodecoderSpec
from sgm.config.lrm import LrmSpec
from sgm.config.model import ModelSpec
from sgm.config.original_yaml import read_reference
from sgm.config.yaml_reader import build, find_config, read_mapping

# What a folder of configs/ besides sampling/ describes.
SCHEMAS = {KIND: AutodecoderSpec, "lrm": LrmSpec}


def load_spec(model, overrides=()):
    """Return the ModelSpec of a model.

    `model`: a name (``sv3d_u``), a path to a YAML file of ours or in the original's own form, or a
    path that does not exist whose stem is a name (``configs/sv3d_u.yaml``). `overrides`:
    ``key=value`` strings with dotted keys, applied last. Raises ConfigError naming file and key.
    """
    path = find_config(model, "sampling")
    mapping = read_mapping(path)
    reference = mapping.get("model")
    if isinstance(reference, dict) and "target" in reference:
        return build(read_reference(mapping, path), {}, path, overrides)
    return build(ModelSpec, mapping, path, overrides)


def load_trained_spec(model, overrides=()):
    """Return the spec of anything that train.py trains: an object of one of `SCHEMAS`.

    model, overrides: as `load_spec`; names of the other folders of configs/ too. Raises
    ConfigError.
    """
    path = find_config(model, "sampling", *SCHEMAS)
    mapping = read_mapping(path)
    schema = spec_type(mapping)
    return load_spec(path, overrides) if schema is ModelSpec else build(schema, mapping, path,
                                                                        overrides)


def spec_type(mapping):
    """Return the schema of a model that is written as a mapping: the one with most of its keys."""
    return max((ModelSpec, *SCHEMAS.values()),
               key=lambda kind: len(set(mapping) & {field.name for field in fields(kind)}))
