"""Initial weights of a run: of the model itself, of one that is fine-tuned, or random numbers."""
from dataclasses import replace

from sgm.checkpoints.identify import fingerprint_of
from sgm.checkpoints.loading import load_weights
from sgm.checkpoints.opening import is_diffusers, open_file, open_weights
from sgm.checkpoints.store import CheckpointError
from sgm.checkpoints.svd_to_sv3d import convert_conditioning
from sgm.config.model_files import load_spec
from sgm.diffusion.engine import Engine
from sgm.models.initialization import initialize

ORIGINS = ("svd", "sv3d_u")     # models from whose weights an orbit model may start, by surgery


def start(spec, init, seed):
    """Return an Engine with float32 weights, and a sentence on where they come from.

    init: a file or diffusers folder (see `starting_weights`), or None. Parts that it lacks are
    drawn by `seed`. The Engine has the decoder that the weights have, independent of `spec`. Raises
    CheckpointError, ConfigError.
    """
    if init is None:
        engine = Engine(spec)
        initialize(engine, seed)
        return engine, "random"
    store, spec, done = starting_weights(init, spec)
    engine = Engine(spec)
    parts = [part for part in engine.PARTS if any(key.startswith(part + ".") for key in store)]
    for part in engine.PARTS:
        if part in parts:
            load_weights(getattr(engine, part), store, prefix=part + ".")
        else:
            initialize(getattr(engine, part), seed)
    random = [part for part in engine.PARTS if part not in parts]
    return engine, f"{init}{done}{f'; random: {chr(44).join(random)}' if random else ''}"


def starting_weights(path, spec):
    """Open the weights at `path` for the model `spec`.

    `path`: as `sgm.checkpoints.opening.open_weights` takes it, of that model or of one of
    `ORIGINS`: then its weights are put where the model has them (`sgm.checkpoints.svd_to_sv3d`).
    Return a TensorStore under the model's published names, `spec` with the decoder of the weights,
    and what was done to them. Raises CheckpointError.
    """
    store, source = _open_as_one_of([spec, *origins(spec)], path)
    if source.condition.embedders == spec.condition.embedders:
        return store, source, ""
    target = replace(spec, vae=source.vae)
    done = f", of {source.name}, fitted to {spec.name}"
    return convert_conditioning(store, source, target), target, done


def origins(spec):
    """Return the ModelSpecs of `ORIGINS` with the widths of `spec`; none for a model of videos."""
    if not spec.is_orbit:
        return []
    conditions = [load_spec(name).condition for name in ORIGINS]
    dim = spec.condition.scalar_dim
    return [replace(spec, name=name, condition=replace(condition, scalar_dim=dim))
            for name, condition in zip(ORIGINS, conditions)
            if condition.embedders != spec.condition.embedders]


def _open_as_one_of(models, path):
    """Open weights as those of the first of the models that they fit.

    If they fit none, the error is the one of the first.
    """
    if not is_diffusers(path):
        store = open_file(path, models[0])
        return open_weights(store, _model_of(fingerprint_of(store), models))
    first = None
    for model in models:
        try:
            return open_weights(path, model)
        except CheckpointError as error:
            first = first or error
    raise first


def _model_of(layout, models):
    """Return the first of the models that a fingerprint fits; the first of all if none does."""
    def fits(spec):
        return (layout.vector_width == sum(spec.vector_widths.values())
                and layout.vae_embedder in (None, spec.condition.embedders.index("cond_frames")))
    return next(filter(fits, models), models[0])
