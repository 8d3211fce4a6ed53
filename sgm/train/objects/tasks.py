"""What each task of a model of objects brings along, and which settings are of which task."""
from typing import Callable, NamedTuple

from sgm.config.autodecoding import AutodecoderSpec
from sgm.config.lrm import LrmSpec
from sgm.config.recipe import OBJECT_TASKS, TRAINS, Recipe
from sgm.config.yaml_reader import ConfigError
from sgm.train.feedforward import elevation_building, feedforward_building
from sgm.train.feedforward.feedforward_sheets import draw_reconstructed
from sgm.train.objects import object_building, object_sheets


class Parts(NamedTuple):
    """The functions of a task."""
    check: Callable         # (spec, recipe): raises ConfigError
    build: Callable         # (spec, recipe, init, progress, together) -> what Trainer needs
    objective: Callable     # (model, recipe, batches) -> loss
    count: Callable         # (spec, recipe) -> objects
    describe: Callable      # (spec, recipe, objects, world) -> lines
    draw: Callable | None   # (model, held out, recipe) -> sheet, figures


_AUTODECODER = Parts(object_building.check_object_fit, object_building.build_objects,
                     object_building.objective_of, object_building.count_objects,
                     object_building.describe_objects, object_sheets.draw_held_out)
PARTS = {
    "autodecoder": _AUTODECODER,
    "latent_diffusion": _AUTODECODER._replace(draw=object_sheets.draw_generated),
    "feedforward": Parts(
        feedforward_building.check_feedforward_fit, feedforward_building.build_feedforward,
        feedforward_building.feedforward_objective, feedforward_building.count_inputs,
        feedforward_building.describe_feedforward, draw_reconstructed),
    "elevation": Parts(
        elevation_building.check_elevation_fit, elevation_building.build_elevation,
        elevation_building.elevation_objective, feedforward_building.count_inputs,
        elevation_building.describe_elevation, None)}
TASKS_OF = {AutodecoderSpec: ("autodecoder", "latent_diffusion"),
            LrmSpec: ("feedforward", "elevation")}
# Settings of some tasks only.
_OF_VIEWS = ("background", "recompute", "augment", "frames", "roam", "front_weight")
_OF_FEEDFORWARD = ("lpips", "stages", "samples", "perceptual_weight", "perceptual_from",
                   "variation_weight", "camera_noise", "recentered")
_OF_NOISE = ("p_mean", "p_std", "drop_condition")
_USED = {
    "diffusion": (*_OF_VIEWS, *_OF_NOISE, "crop", "stride"),
    "autoencoder": (*_OF_VIEWS, "crop", "stride", "kl_weight", "edge_weight"),
    "decoder": (*_OF_VIEWS, "crop", "stride", "edge_weight"),
    "autodecoder": ("views", "hold_out", "mask_weight", "vgg", "crop", "color_weight"),
    "latent_diffusion": (*_OF_NOISE, "hold_out", "conditions"),
    "feedforward": ("views", "hold_out", "mask_weight", "crop", *_OF_FEEDFORWARD),
    "elevation": ("recentered",)}
_SPECIAL = dict.fromkeys(setting for used in _USED.values() for setting in used)


def check_task(spec, recipe):
    """Raise ConfigError naming what a recipe wants and a model of its spec cannot do."""
    others = [task for task in TRAINS if task not in OBJECT_TASKS]
    expected = TASKS_OF.get(type(spec), others)
    if recipe.task not in expected:
        raise ConfigError(f"task: found {recipe.task} for {spec.name}, expected one of"
                          f" {', '.join(expected)}; --train_cfg is of another model")
    usual = Recipe()
    for name in _SPECIAL:
        if name not in _USED[recipe.task] and getattr(recipe, name) != getattr(usual, name):
            raise ConfigError(f"{name}: found {getattr(recipe, name)}, expected"
                              f" {getattr(usual, name) or 'nothing'} for task {recipe.task}, which"
                              " does not use it")
    if recipe.task in OBJECT_TASKS:
        PARTS[recipe.task].check(spec, recipe)
