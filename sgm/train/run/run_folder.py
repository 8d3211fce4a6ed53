"""The folder of a run: its files, written so that a kill at any moment leaves a run to resume."""
import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from sgm.checkpoints.loading import file_hash
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError
from sgm.common.files import atomic
from sgm.config.recipe import MAX_COUNT, OBJECT_TASKS
from sgm.config.yaml_reader import ConfigError, shown
from sgm.train.run.beginning import write_beginning
from sgm.train.run.log import draw_curve, read_metrics
from sgm.train.schedule import LossScale
from sgm.views.images import save_png

STATE, LATEST, BEST, LORA = "state.safetensors", "averaged", "best", "lora"


class RunFolder:
    """Files of a run in `folder`.

    `name` is that of the weights to sample with: averaged.safetensors, or lora.safetensors. init:
    the weights a LoRA belongs to, which its folder does not hold; noted by their hash.
    """

    def __init__(self, folder, recipe, spec, init=None):
        self.folder, self.recipe, self.spec, self.init = Path(folder), recipe, spec, init
        self.name = LORA if recipe.trains == "lora" else LATEST
        self.saved = 0                          # the step of the state

    def start(self, command, overrides=(), model_overrides=()):
        """Make the folder and write config.yaml, what begins the run. Raises InputError."""
        write_beginning(self.folder, command, self.recipe, self.spec, overrides, model_overrides,
                        self._init())

    def _init(self):
        """Return {"path", "hash"} of the weights that the run began with, or None."""
        return self.init and {
            "path": str(Path(self.init).absolute()), "hash": file_hash(self.init)}

    def draw(self):
        """Write curve.png from metrics.csv."""
        save_png(self.folder / "curve.png", draw_curve(read_metrics(self.folder / "metrics.csv")))

    def show(self, step, sheet):
        """Write val_<step>.png, a contact sheet of held-out clips."""
        save_png(self.folder / f"val_{step:08d}.png", sheet)

    def save(self, trainer, val_loss=None):
        """Write the averaged weights, keep them if they are best or latest, write the state.

        The state, from which a run continues, comes last: anything newer is made again. Raises
        CheckpointError; what was there before stays.
        """
        note = {"model": self.spec.name, "step": str(trainer.done)}
        if self.recipe.task in OBJECT_TASKS:    # a file of weights tells how many objects it has
            note["spec"] = json.dumps(asdict(self.spec))
            note.update(getattr(trainer.engine, "notes", {}))   # and which, of an autodecoder
        if self.name == LORA:
            note.update(lora_alpha=f"{self.recipe.lora_alpha:g}",
                        lora_rank=str(self.recipe.lora_rank))
        latest = self.folder / f"{self.name}.safetensors"
        save_safetensors(latest, trainer.weights(True), note)
        if val_loss is not None and (trainer.best is None or val_loss < trainer.best):
            trainer.best = val_loss
            _link(latest, self.folder / f"{BEST}.safetensors")
        if self.recipe.keep > 1:
            _link(latest, self.folder / f"{self.name}_{trainer.done:08d}.safetensors")
            kept = sorted(self.folder.glob(f"{self.name}_????????.safetensors"))
            for old in kept[:-self.recipe.keep]:
                old.unlink()
        arrays, numbers = trainer.state()
        numbers.update(world=trainer.world_size, recipe=asdict(self.recipe),
                       model=asdict(self.spec))
        if self.name == LORA and self.init:
            numbers["init"] = self._init()
        save_safetensors(self.folder / STATE, arrays, {**note, "run": json.dumps(numbers)})
        self.saved = trainer.done

    def resume(self, trainer):
        """Continue `trainer` from the state that `check_resumable` found.

        Raises CheckpointError, ConfigError.
        """
        checkpoint = open_checkpoint(self.folder / STATE)
        numbers = numbers_of(checkpoint)
        if numbers["world"] != trainer.world_size:
            raise ConfigError(f"--resume {self.folder}: its run had {numbers['world']} processes,"
                              f" found {trainer.world_size}, expected as many: each step is of all"
                              " their batches")
        trainer.restore(checkpoint, numbers)
        self.saved = trainer.done


def numbers_of(checkpoint):
    """Return what a state records next to its arrays, checked. Raises CheckpointError."""
    def bad(what):
        return CheckpointError(f"{checkpoint.path}: its metadata {what}, expected the state of a"
                               " run of this version of train.py; it is damaged or of another"
                               f" program: start a new run with --init {LATEST}.safetensors from"
                               " the same folder")

    try:
        numbers = json.loads(checkpoint.metadata["run"])
        missing = sorted(set(_KINDS) - set(numbers))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise bad(f"has no {str(error)[:60]}") from None
    if missing or not isinstance(numbers, dict):
        raise bad(f"has no {missing[0] if missing else 'mapping'}")
    for name, fits in _KINDS.items():
        if not fits(numbers[name]):
            raise bad(f"has {shown(numbers[name])} as {name}")
    if numbers["updates"] + numbers["skipped"] != numbers["step"] or (
            checkpoint.metadata.get("step") != str(numbers["step"])):
        raise bad(f"has {numbers['step']} steps, {numbers['updates']} updates and"
                  f" {numbers['skipped']} skipped steps, noted as step"
                  f" {shown(checkpoint.metadata.get('step'))}, which does not add up")
    return numbers


def _is_count(value):
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_scale(value):
    return (isinstance(value, dict) and _is_count(value.get("good"))
            and isinstance(value.get("value"), float) and 1 <= value["value"] <= LossScale.LARGEST)


def _is_noted(value):
    return value is None or isinstance(value, dict) and all(
        isinstance(value.get(name), str) for name in ("path", "hash"))


# What a state records, and how each of it must be.
_KINDS = {**dict.fromkeys(("step", "updates", "skipped", "bad"), _is_count),
          "best": lambda value: value is None or type(value) is float and math.isfinite(value),
          "scale": _is_scale, "world": lambda value: _is_count(value) and value > 0,
          **dict.fromkeys(("recipe", "model"), lambda value: isinstance(value, dict))}


def check_resumable(folder, recipe, spec, init=None):
    """Return (weights to load first, harmless changes) of a run that can continue.

    The run in `folder` continues under `recipe` and `spec`. Those weights are the state's own, or
    what its LoRA belongs to: `init`, or the file noted. The changes are lines of text. Raises
    CheckpointError if it has no state, ConfigError naming what is not the same.
    """
    path = Path(folder) / STATE
    if not path.exists():
        raise CheckpointError(f"--resume {folder}: found no {STATE} in it, expected the folder of a"
                              " run; leave out --resume to start one")
    numbers = numbers_of(open_checkpoint(path))
    harmful, harmless = recipe.differences(numbers["recipe"])
    # Where the weights have another decoder than the configuration, theirs counts; how it is
    # sampled does not matter here.
    harmful += [line for line in _differences(numbers["model"], asdict(spec))
                if not line.startswith(("vae.decoder:", "vae.post_quant_conv:", "sampling."))]
    noted = numbers.get("init") or {}
    if not _is_noted(numbers.get("init")):
        raise CheckpointError(f"{path}: its metadata has {shown(noted)} as init, expected path and"
                              " hash; it is damaged")
    init = init or noted.get("path")
    if noted and (not os.path.exists(init) or file_hash(init) != noted["hash"]):
        raise ConfigError(f"--init {init}: is not there or of other content than {noted['path']},"
                          f" from which the run in {folder} started and to which its LoRA"
                          " belongs; give that file")
    if harmful:
        raise ConfigError(f"--resume {folder}: its run had other settings: {'; '.join(harmful)};"
                          " give the same, or start a new run with --init"
                          f" {Path(folder) / LATEST}.safetensors")
    return (init if noted else path), harmless


def _differences(recorded, ours, prefix=""):
    """Return lines "unet.model_channels: 64, now 32" on how two nested mappings differ.

    Only keys that both have are compared.
    """
    for key in recorded.keys() & ours.keys():
        if isinstance(ours[key], dict) and isinstance(recorded[key], dict):
            yield from _differences(recorded[key], ours[key], f"{prefix}{key}.")
        elif ours[key] != recorded[key]:
            yield f"{prefix}{key}: {shown(recorded[key])}, now {shown(ours[key])}"


def _link(source, target):
    """Make `target` a second name of the file `source`, or a copy where there are no such names."""
    with atomic(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
