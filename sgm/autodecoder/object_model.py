"""The networks of an autodecoder with their weights: objects to latents, volumes and views."""
import numpy as np
from mindspore import Tensor, nn

from sgm import ops
from sgm.autodecoder.embeddings import make_embeddings
from sgm.autodecoder.latents.edm import Preconditioned
from sgm.autodecoder.latents.latent_normalization import Normalization
from sgm.autodecoder.latents.unet3d import UNet3D
from sgm.autodecoder.learned_cameras import LearnedCameras
from sgm.autodecoder.noted import check_same, notes_of
from sgm.autodecoder.ray_marching import RayMarcher
from sgm.autodecoder.volumes import LatentDecoder, RadianceDecoder
from sgm.checkpoints.identify import misfit_message, misfits_of
from sgm.checkpoints.loading import load_weights
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError
from sgm.config.autodecoding import LATENT_SIDE
from sgm.models.blocks import empty
from sgm.models.initialization import initialize
from sgm.views.cameras import FOV_DEG, focal_length, rays

VOXELS = LATENT_SIDE ** 3
DENOISER, MEDIAN, DEVIATION = "denoiser.", "latent_median", "latent_deviation"
CHUNK = 4096            # rays that are rendered at once


def of_diffusion(name):
    """Return whether a parameter of an ObjectModel belongs to stage 2."""
    return name.startswith(DENOISER) or name in (MEDIAN, DEVIATION)


class ObjectModel(nn.Cell):
    """An autodecoder of `spec` (an AutodecoderSpec); with `diffusion` also that of its latents.

    Weights come from `load_objects` or `sgm.models.initialization`; latents are arrays (count,
    8^3, C), volumes (count * side^3, 4) raw density and color. `notes`: what a file of its weights
    says of the objects, {name: text}, see `sgm.autodecoder.noted`.
    """

    def __init__(self, spec, diffusion=False):
        super().__init__()
        self.spec = spec
        self.embeddings = make_embeddings(spec)
        self.latent_decoder = LatentDecoder(spec)
        self.radiance_decoder = RadianceDecoder(spec)
        self.cameras = None
        if spec.learned_cameras:
            self.cameras = LearnedCameras(spec.learned_cameras)
        self.denoiser = None
        if diffusion:
            width = spec.volume.latent_width
            self.denoiser = Preconditioned(UNet3D(spec.diffusion, width),
                                           spec.diffusion.sigma_data)
            self.latent_median, self.latent_deviation = empty(1), empty(1)
        self.graphs, self.notes = {}, {}

    # --- in graphs --------------------------------------------------------------------------------

    def latents(self, rows):
        """Return the latents (B * 8^3, C) of objects; rows: of `embeddings.rows`, a tensor."""
        return self.latent_decoder(self.embeddings(rows))

    def decode(self, latents):
        """Return the volumes of latents (count * 8^3, C): (count * side^3, 4)."""
        return self.radiance_decoder(latents, latents.shape[0] // VOXELS)[:, :4]

    def volumes(self, rows):
        """Return the volumes of objects; rows: as `latents`."""
        return self.decode(self.latents(rows))

    # --- from the host ----------------------------------------------------------------------------

    def run(self, name, *inputs):
        """Return fetch(self.<name>(*inputs)) of arrays, as a compiled graph of these shapes."""
        if name not in self.graphs:
            self.graphs[name] = ops.compiled(getattr(self, name))
        return ops.fetch(self.graphs[name](*map(Tensor, inputs)))

    def release(self):
        """Forget compiled graphs: they keep the weights that they ran with first."""
        self.graphs.clear()
        ops.release()

    def latents_of(self, objects, batch=8, progress=None):
        """Return the latents (len(objects), 8^3, C) float32 of objects (numbers from 0).

        They are computed `batch` at a time, in one shape; progress(iterable, description) wraps the
        loop.
        """
        objects = np.asarray(objects)
        found = np.empty((len(objects), VOXELS, self.spec.volume.latent_width), np.float32)
        starts = range(0, len(objects), batch)
        for start in progress(starts, "decoding latents") if progress else starts:
            some = objects[start:start + batch]
            padded = np.resize(some, batch)
            latents = self.run("latents", self.embeddings.rows(padded))
            found[start:start + batch] = latents.reshape(batch, VOXELS, -1)[:len(some)]
        return found

    def render(self, latents, poses, size):
        """Return the objects of latents as cameras see them: (count, V, size, size, 4) float32.

        latents (count, 8^3, C); poses (V, 4, 4) camera-to-world, all of SV3D's field of view.
        Colors, straight, and opacity, both in [0, 1].
        """
        parts = rays(np.asarray(poses), size, size, focal_length(size, FOV_DEG))
        made = self.render_rays(self.volumes_of(latents), *(part.reshape(-1, 3) for part in parts))
        made = made.reshape(len(latents), len(poses), size, size, 4)
        made[..., :3] /= np.maximum(made[..., 3:], 1e-3)
        return made.clip(0, 1)

    def volumes_of(self, latents):
        """Return the volumes (count, side^3, 4) of latents (count, 8^3, C)."""
        volumes = self.run("decode", np.float32(latents).reshape(len(latents) * VOXELS, -1))
        return volumes.reshape(len(latents), -1, 4)

    def render_rays(self, volumes, origins, directions):
        """Return what rays (N, 3), unit, see of volumes (count, side^3, 4): (count, N, 4) float32.

        Colors before black, premultiplied, and opacity.
        """
        spec, count = self.spec, len(volumes)
        key = "march", count
        if key not in self.graphs:
            self.graphs[key] = ops.compiled(RayMarcher(spec.volume.side, spec.samples, 1, count))
        origins, directions = (np.float32(part.T) for part in (origins, directions))
        total = origins.shape[1]
        most = min(CHUNK, total)
        volumes = Tensor(volumes.reshape(-1, 4))
        middle = Tensor(np.full((spec.samples, most), 0.5, np.float32))
        made = np.empty((4, total, count), np.float32)
        for start in range(0, total, most):
            chunk = np.resize(np.arange(start, min(start + most, total)), most)
            result = ops.fetch(self.graphs[key](volumes, Tensor(origins[:, chunk]),
                                                Tensor(directions[:, chunk]), middle))
            made[:, start:start + most] = result[:, :min(most, total - start)]
        return made.transpose(2, 1, 0)

    @property
    def normalization(self):
        """Return the Normalization with which the denoiser was trained."""
        settings = self.spec.diffusion
        return Normalization(float(self.latent_median.asnumpy()[0]),
                             float(self.latent_deviation.asnumpy()[0]), settings.latent_std,
                             settings.clip)

    def keep_normalization(self, normalization):
        """Make a Normalization part of the weights."""
        for parameter, value in ((self.latent_median, normalization.median),
                                 (self.latent_deviation, normalization.deviation)):
            parameter.set_data(Tensor(np.array([value], np.float32)))


def load_objects(spec, path, diffusion, seed=0):
    """Return an ObjectModel with the weights of a file, and whether its denoiser was drawn anew.

    path: None draws all of it, by `seed`. A file of stage 1 has no denoiser: with `diffusion` that
    is drawn. Raises CheckpointError if the file is of another model, ConfigError if it was trained
    with other settings.
    """
    model = ObjectModel(spec, diffusion)
    if path is None:
        initialize(model, seed)
        return model, diffusion
    store, parts = open_checkpoint(path), list(model.name_cells())
    drawn = diffusion and not any(key.startswith(DENOISER) for key in store)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.parameters_dict().items()
              if not (drawn and of_diffusion(name))}
    missing, misshapen, extra, _ = misfits_of(store, wanted)
    # A state holds moments, too; a file of stage 2 what stage 1 does not need; and cameras matter
    # in stage 1 alone.
    known = parts if diffusion else [*parts, "cameras"]
    extra = [name for name in extra if name.partition(".")[0] in known]
    if missing or misshapen or extra:
        raise CheckpointError(f"{path}: does not fit {spec.name}:"
                              f" {misfit_message(missing, misshapen, extra)}; expected weights that"
                              " train.py made of this very model")
    check_same(store, spec, diffusion and not drawn)
    model.notes = notes_of(store)
    for part in parts:
        if drawn and part + "." == DENOISER:
            initialize(model.denoiser, seed)
        else:
            load_weights(getattr(model, part), store, prefix=part + ".")
    if diffusion and not drawn:
        for parameter in (model.latent_median, model.latent_deviation):
            parameter.set_data(Tensor(np.array(store.read(parameter.name), np.float32)))
    return model, drawn


def parameter_count(spec, diffusion=False):
    """Return {part: number of parameters} of an autodecoder; nothing is allocated."""
    model = ObjectModel(spec, diffusion)
    return {part: sum(parameter.size for parameter in cell.get_parameters())
            for part, cell in model.name_cells().items()}
