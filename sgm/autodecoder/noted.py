"""What a file of an autodecoder's weights notes besides them, and whether it is the same now."""
import json
from dataclasses import asdict

from sgm.checkpoints.store import CheckpointError
from sgm.common.records import described, differing
from sgm.config.autodecoding import AutodecoderSpec
from sgm.config.yaml_reader import ConfigError, build

SPEC = "spec"               # the spec that the weights are of
# A hash of the names of the trained objects; which views of each, and which objects of the
# diffusion's training, were held out: every so many-th, 0: none.
NAMES, HOLD_OUT, HELD_OBJECTS = "names", "hold_out", "held_objects"
# What changes what weights mean, but not their shapes; the others for a trained denoiser.
OF_DECODER = ("embedding.", "volume.")
OF_DENOISER = ("diffusion.sigma_data", "diffusion.latent_std", "diffusion.clip",
               "diffusion.norm_groups", "diffusion.head_width")


def noted_spec(store, overrides=()):
    """Return the AutodecoderSpec that weights note; None of an earlier version's.

    Raises CheckpointError.
    """
    text = (store.metadata or {}).get(SPEC)
    if text is None:
        return None
    try:
        return build(AutodecoderSpec, json.loads(text), f"{store.path}: {SPEC}", overrides)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise CheckpointError(f"{store.path}: its metadata has a damaged {SPEC}, expected that of a"
                              " file of train.py") from None


def check_same(store, spec, denoiser):
    """Raise ConfigError if weights were trained with settings that are others now.

    Only those count that change what the weights mean: of the decoder, and if the weights have a
    trained `denoiser` also its own.
    """
    noted = noted_spec(store)
    if noted is None:
        return
    before, now = asdict(noted), asdict(spec)
    counts = OF_DECODER + OF_DENOISER * denoiser
    others = [name for name in differing(before, now) if name.startswith(counts)]
    if others:
        raise ConfigError(f"{others[0]}: {store.path} was trained with"
                          f" {described(others, before, now)}; expected the same, as weights mean"
                          " something else with others; give what they were trained with")


def notes_of(store):
    """Return {name: text} of what weights note on the objects that they were trained on."""
    found = store.metadata or {}
    return {name: found[name] for name in (NAMES, HOLD_OUT, HELD_OBJECTS) if name in found}
