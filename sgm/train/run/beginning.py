"""config.yaml of a run: what began it, which a resumed run reads and never writes over."""
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, Optional

import yaml

from sgm.common.files import atomic
from sgm.config.autodecoding import AutodecoderSpec
from sgm.config.lrm import LrmSpec
from sgm.config.model import ModelSpec
from sgm.config.model_files import spec_type
from sgm.config.recipe import Recipe
from sgm.config.yaml_reader import ConfigError, build, read_mapping, shown

CONFIG, MOST_NOTES = "config.yaml", 50


class Beginning(NamedTuple):
    """What began a run, and what its resumptions changed."""
    recipe: Recipe                  # as it is trained now
    model: ModelSpec | AutodecoderSpec | LrmSpec
    overrides: list                 # of the recipe, as they began it: ["lr=0.1"]
    model_overrides: list           # of the model
    changes: dict                   # {key of the recipe: value}, of all resumptions together
    # {"path", "hash"} of its first weights; None: random; {}: not noted, by an earlier version
    init: Optional[dict]


def write_beginning(folder, command, recipe, spec, overrides=(), model_overrides=(), init=None):
    """Write config.yaml of a new run. Raises InputError.

    command: the words of the command; the others: see `Beginning`.
    """
    _write(folder, {
        "command": list(command), "set": list(overrides), "model_set": list(model_overrides),
        "init": init, "recipe": asdict(recipe), "model": asdict(spec)})


def note_resumption(folder, command, step, recipe):
    """Add to config.yaml that a run goes on at `step`, and what of its recipe is new.

    What began the run stays. Raises ConfigError, InputError.
    """
    path = Path(folder) / CONFIG
    if path.exists():
        config = read_mapping(path)
        began = build(Recipe, config["recipe"], path)
        config["changes"] = {name: value for name, value in asdict(recipe).items()
                             if value != getattr(began, name)}
        note = f"at step {step}: {shlex.join(map(str, command))}"
        config["resumed"] = [*config.get("resumed", []), note][-MOST_NOTES:]
        _write(folder, config)


def _write(folder, config):
    path = Path(folder) / CONFIG
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def read_beginning(folder):
    """Return the Beginning of the run in `folder`. Raises ConfigError naming file and key."""
    path = Path(folder) / CONFIG
    if not path.exists():
        raise ConfigError(f"--resume {folder}: found no {CONFIG} in it, expected the folder of a"
                          " run; give another, or the --model_cfg and --train_cfg it began with")
    try:
        return _beginning(path, read_mapping(path))
    except ConfigError as error:
        raise ConfigError(f"{error}; it is damaged, or of no run of train.py: move it away, and"
                          " give the --model_cfg and --train_cfg that the run began with") from None


def _beginning(path, config):
    """Return the Beginning in a mapping, or raise ConfigError."""
    recipe, model = (_of_kind(path, config, key, dict) for key in ("recipe", "model"))
    changes = _of_kind(path, config, "changes", dict, {})
    _of_kind(path, config, "resumed", list, [])
    init = _of_kind(path, config, "init", dict, {} if "init" not in config else None)
    if init and not all(isinstance(init.get(name), str) for name in ("path", "hash")):
        raise ConfigError(f"{path}: init: found {shown(init)}, expected path and hash")
    before = _flags(_of_kind(path, config, "command", list, []))
    return Beginning(build(Recipe, {**recipe, **changes}, f"{path}: recipe"),
                     build(spec_type(model), model, f"{path}: model"),
                     _texts(path, config, "set", before["--set"]),
                     _texts(path, config, "model_set", before["--model-set"]), changes, init)


def _of_kind(path, config, key, kind, default=None):
    """Return the value of a key, or `default` where it is not there or null.

    Raises ConfigError for one of another kind, or without a default.
    """
    value = config.get(key)
    if value is None and (default is not None or key == "init"):
        return default
    if not isinstance(value, kind):
        raise ConfigError(f"{path}: {key}: found {shown(value)}, expected a {kind.__name__}")
    return value


def _texts(path, config, key, default):
    return [str(value) for value in _of_kind(path, config, key, list, default)]


def _flags(command):
    """Return the values of --set and --model-set in a command, of runs that did not note them."""
    found = {"--set": [], "--model-set": []}
    for word, value in zip(command, command[1:]):
        if str(word) in found:
            found[str(word)].append(value)
    return found


def check_init(folder, begun, given, hash_of):
    """Raise ConfigError unless `given`, an --init, is what the run began with.

    begun: its Beginning; hash_of: returns a file's hash.
    """
    if given is None or begun.init == {}:
        return
    path = begun.init["path"] if begun.init else "random weights"
    if not (begun.init and os.path.exists(given) and hash_of(given) == begun.init["hash"]):
        raise ConfigError(f"--init {given}: is not what the run in {folder} began with, {path};"
                          " leave out --init, or start a new run")
