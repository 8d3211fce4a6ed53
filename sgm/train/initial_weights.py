"""What a run starts from: weights in any form, of the model itself or of one whose fine-tuning it is; or random numbers."""
from dataclasses import replace
from pathlib import Path

from sgm.checkpoints.diffusers.reader import open_folder
from sgm.checkpoints.identify import adapt_spec, fingerprint_of
from sgm.checkpoints.loading import load_weights
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError
from sgm.checkpoints.svd_to_sv3d import convert_conditioning
from sgm.config.model_files import load_spec
from sgm.diffusion.engine import Engine
from sgm.models.initialization import initialize

ORIGINS = ("svd", "sv3d_u")     # models from whose weights an orbit model may start, by surgery


def start(spec, init, seed):
    """-> (Engine with float32 weights, a sentence on where they come from).

    init: a file or diffusers folder (see `open_weights`), or None. Parts that it lacks are drawn by `seed`. The Engine has
    the decoder that the weights have, whatever `spec` says. Raises CheckpointError, ConfigError.
    """
    if init is None:
        engine = Engine(spec)
        initialize(engine, seed)
        return engine, "random"
    store, spec, done = open_weights(init, spec)
    engine = Engine(spec)
    parts = [part for part in engine.PARTS if any(key.startswith(part + ".") for key in store)]
    if not parts:
        raise CheckpointError(f"--init {init}: has no key of {', '.join(engine.PARTS)}; expected weights of a model")
    for part in engine.PARTS:
        if part in parts:
            load_weights(getattr(engine, part), store, prefix=part + ".")
        else:
            initialize(getattr(engine, part), seed)
    random = [part for part in engine.PARTS if part not in parts]
    return engine, f"{init}{done}{f'; random: {chr(44).join(random)}' if random else ''}"


def open_weights(path, spec):
    """-> (TensorStore under the published names of the model `spec`, `spec` with its decoder, what was done to them).

    `path`: .safetensors (published or ours), .ckpt, or a diffusers folder, of that model or of one of `ORIGINS`: then its
    weights are put where the model has them (`sgm.checkpoints.svd_to_sv3d`). Raises CheckpointError.
    """
    models = [spec, *origins(spec)]
    if Path(path).is_dir():
        store, source = _open_folder(path, models)
    else:
        store = open_checkpoint(path)
        source = _model_of(fingerprint_of(store), models)
        source = adapt_spec(source, store)
    if source.condition.embedders == spec.condition.embedders:
        return store, source, ""
    target = replace(spec, vae=source.vae)
    return convert_conditioning(store, source, target), target, f", of {source.name}, fitted to {spec.name}"


def origins(spec):
    """ModelSpecs of `ORIGINS` with the widths of `spec`; none for a model of videos."""
    if not spec.is_orbit:
        return []
    conditions = [load_spec(name).condition for name in ORIGINS]
    return [replace(spec, name=name, condition=replace(condition, scalar_dim=spec.condition.scalar_dim))
            for name, condition in zip(ORIGINS, conditions) if condition.embedders != spec.condition.embedders]


def _model_of(layout, models):
    """The first of the models that a file's Layout is of; the first of all if none is, whose name the error then says."""
    def fits(spec):
        return (layout.vector_width == sum(spec.vector_widths.values())
                and layout.vae_embedder in (None, spec.condition.embedders.index("cond_frames")))
    return next(filter(fits, models), models[0])


def _open_folder(path, models):
    first = None
    for model in models:
        try:
            return open_folder(path, model)
        except CheckpointError as error:
            first = first or error
    raise first
