"""The public face of autodecoders: new objects from seeds, and objects that look like given views.

    objects = load_autodecoder("autodecoder_small", "averaged.safetensors")
    meshes = objects.generate(count=4)
    [mesh] = objects.fit("outputs/cup")
"""
import logging
from dataclasses import asdict

import numpy as np

from sgm.autodecoder import fitting
from sgm.autodecoder.latents import sampling
from sgm.autodecoder.latents.conditions import condition_of
from sgm.autodecoder.latents.latent_normalization import robust_normalization
from sgm.autodecoder.noted import noted_spec
from sgm.autodecoder.object_model import VOXELS, load_objects
from sgm.autodecoder.surface import surface_of
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError
from sgm.common.errors import InputError, argument
from sgm.common.records import described, differing
from sgm.config.autodecoding import load_autodecoder_spec
from sgm.config.yaml_reader import DATA, ConfigError, find_config
from sgm.reconstruct.posed_views import PosedViews
from sgm.reconstruct.views_reader import read_views

EMBEDDED = ("autodecoder_small", DATA / "assets" / "autodecoder_small.safetensors")
RANDOM = "random"           # in place of a file: weights are drawn, for tests
BATCH = 4                   # latents that are sampled at once, in one static shape
log = logging.getLogger("sgm")


def load_autodecoder(name="autodecoder_small", ckpt=None, overrides=()):
    """Return the `Autodecoder` of a model with its weights.

    name: of configs/autodecoder, or a YAML file. ckpt: a file of train.py, of stage 1 (then objects
    can be fitted, not generated) or stage 2; None: those of autodecoder_small that are in assets,
    if any; "random" draws weights. A file that notes its own
    settings, as those of train.py do, is read with these: its number of objects and its sizes need
    not be repeated. overrides: ["key=value", ...]. Raises ConfigError, CheckpointError.
    """
    spec = load_autodecoder_spec(name, overrides)
    if ckpt is None and EMBEDDED[1].is_file() and (
            find_config(name, "autodecoder") == find_config(EMBEDDED[0], "autodecoder")):
        ckpt = EMBEDDED[1]
    if ckpt is None:
        raise ConfigError(f"{argument('ckpt')}: found none for {spec.name}, expected the"
                          " averaged.safetensors of a run of train.py, since none are embedded")
    if ckpt == RANDOM:
        log.warning("%s has random weights, as %s %s asks for: it makes noise", spec.name,
                    argument("ckpt"), RANDOM)
        model, _ = load_objects(spec, None, True)
        model.keep_normalization(normalization_of(model))
        return Autodecoder(model, generates=True)
    store = open_checkpoint(ckpt)
    noted = noted_spec(store, overrides)
    if noted is not None:
        if noted.name != spec.name:
            raise CheckpointError(f"{ckpt}: found weights of {noted.name}, expected {spec.name};"
                                  f" give {argument('name', '--model')} {noted.name}")
        others = [key for key in differing(asdict(spec), asdict(noted)) if key != "objects"]
        if others:
            log.info("%s: is read with the settings that it notes: %s", ckpt,
                     described(others, asdict(spec), asdict(noted)))
        spec = noted
    generates = any(key.startswith("denoiser.") for key in store)
    return Autodecoder(load_objects(spec, ckpt, generates)[0], generates)


def normalization_of(model):
    """Return the Normalization of a model's own latents, of its first objects."""
    settings = model.spec.diffusion
    latents = model.latents_of(range(min(8, model.spec.objects)))
    return robust_normalization(latents, settings.latent_std, settings.clip)


class Autodecoder:
    """An autodecoder that is ready for use: what `load_autodecoder` returns.

    Its graphs are compiled when they are first used, and kept; `release` forgets them. Latents are
    arrays (count, 8^3, C).
    """

    def __init__(self, model, generates):
        self.model, self.generates, self._fitter = model, generates, None

    @property
    def spec(self):
        """Return the AutodecoderSpec."""
        return self.model.spec

    def __repr__(self):
        size = sum(parameter.size for parameter in self.model.get_parameters())
        return f"<Autodecoder {self.spec.name}: {self.spec.objects} objects, {size / 1e6:.1f} M>"

    def generate(self, count=1, seeds=None, steps=None, label=None, image=None, text=None,
                 churn=None, guidance=None):
        """Return a mesh for each seed, by default 0 .. count - 1: a list of TexturedMesh.

        label, image, text: what is wanted, of a model that was trained with it; see
        `sgm.autodecoder.latents.conditions.condition_of`. The others: see `sampling.sample`. Raises
        InputError, also where a sample is empty.
        """
        seeds = list(range(count) if seeds is None else seeds)
        condition = condition_of(self.spec.diffusion.condition, label, image, text)
        return [self.mesh(latent) for latent in
                self.sample(seeds, steps, churn, condition, guidance)]

    def check_generates(self):
        """Raise ConfigError if the weights are of stage 1, without a denoiser."""
        if not self.generates:
            raise ConfigError(f"{argument('ckpt')}: found weights of stage 1, expected those of"
                              " stage 2 (train.py --train_cfg autodecoder_diffusion), which"
                              " generate")

    def sample(self, seeds, steps=None, churn=None, condition=None, guidance=None, start=None,
               progress=None):
        """Return the latents of seeds; see `sampling.sample`. Raises ConfigError.

        They are computed BATCH at a time. progress(done, all) counts the steps of all batches.
        """
        self.check_generates()
        seeds, settings = list(seeds), self.spec.diffusion
        if not seeds:
            return np.zeros((0, VOXELS, self.spec.volume.latent_width), np.float32)
        steps, made = steps or settings.steps, []
        batch = min(BATCH, len(seeds))
        batches = -(-len(seeds) // batch)
        for number in range(batches):
            places = np.arange(number * batch, (number + 1) * batch).clip(max=len(seeds) - 1)

            def tell(i, n, number=number):
                if progress:
                    progress(number * n + i, batches * n)
            made.append(sampling.sample(
                self.model, [seeds[k] for k in places], steps, churn,
                None if start is None else start[places], condition, guidance, tell))
        latents = np.concatenate(made)[:len(seeds)]
        if not np.isfinite(latents).all():
            raise InputError("found latents that are not finite, expected numbers: the weights are"
                             " damaged or their training diverged")
        return latents

    def between(self, first, second, count, steps=None, condition=None, guidance=None,
                progress=None, places=None):
        """Return `count` latents on the way from one seed to another, sampled without added noise.

        Both ends are among them. places: which of them to return, None: all. Raises InputError for
        equal seeds.
        """
        if first == second:
            raise InputError(f"between: found seed {first} twice, expected two different ones")
        noise = sampling.Noise(self.model, [first, second]).draw()
        start = sampling.between(*noise, count)
        start = start if places is None else start[list(places)]
        return self.sample([first] * len(start), steps, 0.0, condition, guidance, start, progress)

    def fit(self, views, steps=fitting.STEPS, seed=0):
        """Return [mesh] of the object whose volume looks like given views.

        views: a views folder, or `PosedViews` in our world. See `sgm.autodecoder.fitting`. Raises
        InputError.
        """
        if not isinstance(views, PosedViews):
            views = self.read(views)
        return [self.mesh(self.fitter.fit(views, steps, seed)[1][0])]

    @property
    def fitter(self):
        """Return what fits embeddings, a `fitting.Fitter`."""
        if self._fitter is None:
            self._fitter = fitting.Fitter(self.model)
        return self._fitter

    def read(self, folder, chosen=None, progress=False):
        """Return the PosedViews of a views folder in the size of the model's views.

        chosen: the numbers of the views to take, in the order of the file; None: all. Raises
        InputError.
        """
        views = read_views(folder, self.spec.size, progress=progress, fewest=1)
        if chosen is None:
            return views
        wrong = [k for k in chosen if not 0 <= k < len(views)]
        if wrong:
            raise InputError(f"{folder}: found {len(views)} views, expected one of number"
                             f" {wrong[0]}; they are counted from 0")
        return views.subset(list(chosen))

    def mesh(self, latent):
        """Return the TexturedMesh of a latent (8^3, C). Raises InputError if it is empty."""
        return surface_of(self.model.volumes_of(latent[None])[0])

    def render(self, latent, orbit, size=None):
        """Return views of a latent (8^3, C) from an orbit: (T, size, size, 4) uint8, straight."""
        made = self.model.render(latent[None], orbit.poses(), size or self.spec.size)[0]
        return np.round(made * 255).astype(np.uint8)

    def release(self):
        """Give back the memory of compiled graphs."""
        self._fitter = None
        self.model.release()
