"""The parts of the training loop: batches of a step, learning rate, checkpoint and resume.

All randomness of a step follows from the recipe's seed and the step's number, so a resumed run continues bit for bit.
"""
import json
from pathlib import Path

import numpy as np
from mindspore import Tensor

from sgm import ops
from sgm.checkpoint import CheckpointError, open_checkpoint, save_safetensors
from sgm.train.data import shuffled
from sgm.train.objective import AutoencoderLoss, DiffusionLoss, lognormal_sigmas
from sgm.train.step import TrainStep


def learning_rate(recipe, step):
    """Linear rise over `warmup` steps, then a cosine from lr to lr_final * lr at the last step."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (recipe.lr_final + (1 - recipe.lr_final) * 0.5 * (1 + np.cos(np.pi * progress)))


class DiffusionBatches:
    """Batches of the diffusion loss from latent orbits."""

    def __init__(self, recipe, orbits):
        self.recipe, self.orbits = recipe, orbits

    def __call__(self, step):
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, step])
        indices = shuffled(recipe.seed, len(self.orbits), step, recipe.batch)
        x0, token, latent, vector = self.orbits.batch(rng, indices, recipe.drop_condition, recipe.roam)
        sigma = lognormal_sigmas(rng, len(indices), self.orbits.num_frames, recipe.p_mean, recipe.p_std)
        noise = rng.standard_normal(x0.shape, dtype=np.float32)
        return x0, noise, sigma, token, latent, vector


class ViewBatches:
    """Single views, or square crops of them, for the autoencoder."""

    TRIES = 3       # places a crop may lie at; the one that shows most of the object is taken

    def __init__(self, recipe, orbits, spec):
        self.recipe, self.orbits = recipe, orbits
        self.size = recipe.crop or orbits.size
        side = self.size // spec.vae_factor
        self.latent_shape = (spec.vae.z_channels, side, side)

    def __call__(self, step):
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, step])
        draws = rng.integers((len(self.orbits), self.orbits.num_frames), size=(recipe.batch, 2))
        corners = rng.integers(self.orbits.size - self.size + 1, size=(recipe.batch, self.TRIES, 2))
        images = np.concatenate([self.crop(self.orbits.frames(clip, [view]), places)
                                 for (clip, view), places in zip(draws, corners)])
        return images, rng.standard_normal((recipe.batch,) + self.latent_shape, dtype=np.float32)

    def crop(self, image, places):
        """That crop of (1, 3, H, W) among `places` (rows y, x) which is least white."""
        crops = [image[..., y:y + self.size, x:x + self.size] for y, x in places]
        return min(crops, key=lambda crop: (crop == 1).sum())


class Trainer:
    """One network, its objective and its optimiser; `advance(step)` makes one step."""

    def __init__(self, engine, recipe, batches):
        self.engine, self.recipe, self.batches = engine, recipe, batches
        if recipe.task == "diffusion":
            cells = [engine.model]
            objective = DiffusionLoss(engine.model, batches.orbits.num_frames)
        else:
            encoder = engine.conditioner.embedder("cond_frames").encoder
            cells = [encoder, engine.first_stage_model][recipe.trains == "decoder":]
            objective = AutoencoderLoss(encoder, engine.first_stage_model, recipe.kl_weight)
        weights = [parameter for cell in cells for parameter in cell.get_parameters()]
        self.step = TrainStep(objective, weights, tuple(recipe.betas), weight_decay=recipe.weight_decay,
                              clip_norm=recipe.clip_norm)
        self.compiled = ops.compiled(self.step.construct)
        self.done = 0

    def advance(self):
        """One step -> loss, gradient norm, learning rate (floats)."""
        recipe = self.recipe
        lr = learning_rate(recipe, self.done)
        # The average follows quickly at first, so that it forgets the random start.
        decay = min(recipe.average_decay, (1 + self.done) / (10 + self.done))
        batch = [Tensor(array) for array in self.batches(self.done)]
        loss, norm = self.compiled(self.step.rates(self.done + 1, lr, decay), *batch)
        self.done += 1
        return float(ops.fetch(loss)), float(norm.asnumpy()), lr

    def kept(self):
        """The parameters that a checkpoint holds: all, or all but the UNet's when it is the autoencoder that is trained."""
        return {name: parameter for name, parameter in self.engine.parameters_dict().items()
                if self.recipe.task == "diffusion" or not name.startswith("model.")}

    def weights(self, averaged):
        """{published key: array} of what is kept, with the trained part's moving average if `averaged`."""
        arrays = {name: parameter.asnumpy() for name, parameter in self.kept().items()}
        if averaged:
            for weight, average in zip(self.step.weights, self.step.average):
                arrays[weight.name] = average.asnumpy()
        return arrays

    def save(self, folder):
        """Write `averaged.safetensors` (to sample with) and `state.safetensors` (to resume from) into `folder`."""
        folder = Path(folder)
        note = {"model": self.engine.spec.name, "step": str(self.done)}
        save_safetensors(folder / "averaged.safetensors", self.weights(True), note)
        state = self.weights(False)
        for weight, *others in zip(self.step.weights, self.step.m, self.step.v, self.step.average):
            for kind, other in zip(("m", "v", "average"), others):
                state[f"{kind}/{weight.name}"] = other.asnumpy()
        save_safetensors(folder / "state.safetensors", state, note)

    def resume(self, folder):
        """Continue from `state.safetensors` in `folder`. Raises CheckpointError if it is not of this model."""
        path = Path(folder) / "state.safetensors"
        checkpoint = open_checkpoint(path)
        wanted = self.kept()
        for weight, *others in zip(self.step.weights, self.step.m, self.step.v, self.step.average):
            wanted.update({f"{kind}/{weight.name}": other for kind, other in zip(("m", "v", "average"), others)})
        for name, parameter in wanted.items():
            if name not in checkpoint or tuple(checkpoint.shape(name)) != tuple(parameter.shape):
                raise CheckpointError(f"{path}: {name} is missing or of another shape; it was made by another recipe")
            parameter.set_data(Tensor(np.array(checkpoint.read(name))))
        ops.release()       # a step that was compiled would go on with its own weights
        self.done = int(checkpoint.metadata["step"])


def append_row(path, row):
    """One line of metrics: a dict appended to a JSON-lines file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
