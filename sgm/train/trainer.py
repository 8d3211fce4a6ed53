"""One network, its loss and its optimizer: steps, the held-out loss, the state of a run.

All randomness of a step follows from the recipe's seed and the step's number, so a resumed run
continues bit for bit on a CPU; on an NPU closely, as its kernels add in no fixed order.
"""
import logging
import math
from contextlib import contextmanager
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor

from sgm import ops
from sgm.checkpoints.store import CheckpointError
from sgm.common.errors import InputError
from sgm.config.recipe import OBJECT_TASKS
from sgm.diffusion.guards import of_memory
from sgm.models.blocks import Block
from sgm.train.batches import val_count
from sgm.train.lora_layers import attach
from sgm.train.losses import AutoencoderLoss, DecoderLoss, DiffusionLoss, frame_weights
from sgm.train.objects.tasks import PARTS
from sgm.train.optimizer import TrainStep
from sgm.train.run.validation import draw_sheet
from sgm.train.schedule import LossScale, average_decay, learning_rate
from sgm.train.trainable import is_kept, is_trained

log = logging.getLogger("sgm")
HALVES = {"fp16": ms.float16, "bf16": ms.bfloat16}


class TrainingError(InputError):
    """A training that cannot continue; one line that names step, clips and remedy."""


class Row(NamedTuple):
    """The figures of a step."""
    loss: float
    grad_norm: float
    lr: float
    skipped: bool  # a loss or gradient was not finite: the weights stayed as they were


class Trainer:
    """Makes steps of `recipe` (a Recipe) on the networks of `engine`: `advance()`.

    batches(number) returns the arrays of batch `number`, batches.clip_indices(number) its clips
    (see `sgm.train.batches`); held_out: the same for validation, or None; seen: batches of training
    clips that are measured as those, or None. rank, world_size: data-parallel position; gradients
    are summed over ranks.
    """

    def __init__(self, engine, recipe, batches, held_out=None, rank=0, world_size=1, seen=None):
        self.engine, self.recipe, self.batches, self.held_out = engine, recipe, batches, held_out
        self.seen = seen
        self.rank, self.world_size = rank, world_size
        self.objective = self._objective()
        parameters = self._kept(lambda name: is_trained(recipe, engine.spec, name))
        self.step = TrainStep(self.objective, list(parameters.values()), tuple(recipe.betas),
                              weight_decay=recipe.weight_decay, clip_norm=recipe.clip_norm,
                              accumulate=recipe.accumulate, half=recipe.precision in HALVES,
                              world_size=world_size, with_muon=recipe.optimizer == "muon")
        self.kept = self._kept(lambda name: is_kept(recipe, engine.spec, name))
        self.exact = {}  # float32 values of frozen weights that compute in half precision
        if recipe.precision in HALVES:
            self._halve(HALVES[recipe.precision], set(parameters))
        self.scale = LossScale(recipe.precision)
        self.done = 0                           # steps, including skipped ones
        self.updates = 0                        # updates of the weights
        self.bad = 0    # steps in a row that were not finite, except overflows of float16
        self.skipped = 0                        # skipped steps in all
        self.best = None                        # the lowest held-out loss so far
        self.stopped = False
        self._graphs = {}

    def _objective(self):
        recipe, engine = self.recipe, self.engine
        if recipe.task in OBJECT_TASKS:
            return PARTS[recipe.task].objective(engine, recipe, self.batches)
        if recipe.task == "autoencoder":
            encoder = engine.conditioner.embedder("cond_frames").encoder
            return AutoencoderLoss(encoder, engine.first_stage_model, recipe.kl_weight,
                                   recipe.edge_weight)
        if recipe.task == "decoder":
            return DecoderLoss(engine.first_stage_model, recipe.edge_weight)
        if recipe.trains == "lora":
            attach(engine, recipe.lora_rank, recipe.lora_alpha, recipe.seed)
        if recipe.recompute:
            for _, cell in engine.model.cells_and_names():
                if isinstance(cell, Block):
                    cell.recompute()
        num_frames = self.batches.clips.num_frames
        dtype = HALVES.get(recipe.precision, ms.float32)
        weights = None
        if recipe.front_weight < 1:
            weights = frame_weights(num_frames, recipe.front_weight)
        return DiffusionLoss(engine.model, num_frames, dtype, weights)

    def _kept(self, wanted):
        return {
            name: parameter for name, parameter in self.engine.parameters_dict().items()
            if wanted(name)
        }

    def _halve(self, dtype, trained):
        for name, parameter in self.engine.model.parameters_dict().items():
            if name not in trained and name in self.kept:
                self.exact[name] = parameter.asnumpy()
            parameter.set_dtype(dtype)
        self.engine.dtype = self.engine.kept = dtype        # the precision in which it samples

    def _run(self, name, *inputs):
        """Run a part of the step as a compiled graph."""
        if name not in self._graphs:
            part = getattr(self.objective if name == "construct" else self.step, name)
            self._graphs[name] = ops.compiled(part)
        return self._graphs[name](*inputs)

    def _collective(self, name, *inputs):
        """Return the values of a part of the step in which all processes take part.

        Raises TrainingError.
        """
        try:
            return [ops.fetch(value) for value in self._run(name, *inputs)]
        except RuntimeError as error:
            if self.world_size == 1:
                raise
            reason = next((line for line in str(error).splitlines() if line and line[0] != "-"),
                          "no reason given")
            raise TrainingError(f"step {self.done + 1}: the processes could not add up their"
                                f" gradients ({reason}); one of them is gone or hangs, see its log"
                                " (worker_<rank>.log of msrun); fix that, and continue from the"
                                " last checkpoint with --resume") from None

    # --- steps ------------------------------------------------------------------------------------

    def advance(self, stopped=()):
        """Make one step; return its Row.

        Raises TrainingError after `recipe.bad_steps` in a row that were not finite. Once `stopped`,
        a list that a signal fills, holds something, `self.stopped` is true: in all processes after
        the same step.
        """
        recipe = self.recipe
        lr = learning_rate(recipe, self.done)
        first = self.done * recipe.accumulate * self.world_size
        numbers = range(first + self.rank, first + recipe.accumulate * self.world_size,
                        self.world_size)
        scale, losses = Tensor(np.float32(self.scale.value)), []
        for number in numbers:
            loss = self._run("accumulate", scale, *map(Tensor, self.batches(number)))
            losses.append(float(ops.fetch(loss)))
        share = np.float32(1 / (self.scale.value * recipe.accumulate * self.world_size))
        scalars = Tensor(np.array([np.mean(losses), bool(stopped)], np.float32))
        norm, scalars = self._collective("all_reduce_norm", scalars)
        norm, loss = float(norm * share), float(scalars[0] / self.world_size)
        self.stopped = bool(scalars[1] or self.world_size == 1 and stopped)
        good = math.isfinite(loss) and math.isfinite(norm)
        if good:
            rates = self.step.rates(self.updates + 1, lr, average_decay(recipe, self.done))
            clip = Tensor(self.step.clip(norm) * share)
            ops.fetch(self.step.update_all(self._run, rates, clip))
            self.updates += 1
        elif recipe.accumulate > 1:
            self._run("clear")
        self.done += 1
        self.skipped += not good
        retry = self.scale.update(good)
        self.bad = 0 if good else self.bad + (not retry)
        if self.bad >= recipe.bad_steps:
            clips = sorted(set(sum(map(self.batches.clip_indices, numbers), [])))
            raise TrainingError(
                f"step {self.done}: found the loss {loss:g} and a gradient of norm {norm:g},"
                f" {self.bad} steps in a row that are not finite (this one on clips"
                f" {', '.join(map(str, clips[:20]))}), expected finite numbers; nothing of them was"
                " saved: lower lr, raise warmup, take precision fp32, or look at those clips")
        return Row(loss, norm, lr, not good)

    def broadcast_weights(self):
        """Give all processes the weights of the first one."""
        self._run("broadcast_weights")
        ops.wait()

    @contextmanager
    def averaged(self):
        """Context manager: the averaged weights are in the weights' place."""
        self._run("show_average")
        try:
            yield
        finally:
            self._run("show_weights")
            ops.wait()

    def validate(self, batches=None):
        """Return the mean loss of the averaged weights on `batches`, by default the held-out ones.

        The batches, as many of either, and their noise are the same every time.
        """
        batches = batches or self.held_out
        # Every process evaluates all of them: then none waits for another, and all know which
        # checkpoint is the best.
        with self.averaged():
            losses = [float(ops.fetch(self._run("construct", *map(Tensor, batches(k)))))
                      for k in range(val_count(self.recipe, self.held_out.clips))]
        return float(np.mean(losses))

    def draw(self):
        """Return held-out clips as the averaged weights generate them, see `draw_sheet`.

        Returns (None, {}) with a warning if memory runs out: a training must not end because of its
        pictures.
        """
        with self.averaged():
            try:
                return self._sheet()
            except (MemoryError, RuntimeError) as error:
                if not of_memory(error):
                    raise
        log.warning("step %d: not enough memory for a sheet of held-out clips; sheet_every=0 leaves"
                    " them out, a lower encode_chunk decodes fewer frames at once", self.done)
        return None, {}

    def _sheet(self):
        engine, recipe = self.engine, self.recipe
        if recipe.task in OBJECT_TASKS:
            return PARTS[recipe.task].draw(engine, self.held_out, recipe)
        return draw_sheet(engine, self.held_out.clips, recipe)

    # --- checkpoints ------------------------------------------------------------------------------

    def weights(self, averaged):
        """Return {published key: float32 array} of what is kept.

        The trained part is its moving average if `averaged`.
        """
        arrays = {
            name: parameter.asnumpy() for name, parameter in self.kept.items()
            if name not in self.exact
        }
        arrays.update(self.exact)
        for weight, master, average in zip(self.step.weights, self.step.master, self.step.average):
            arrays[weight.name] = (average if averaged else master).asnumpy()
        return arrays

    def state(self):
        """Return ({name: array}, {name: number or dict}): all that `restore` needs.

        For what is trained there are <moment>/<published key>, of moment m, v and average.
        """
        arrays = self.weights(False)
        arrays.update({name: moment.asnumpy() for name, moment in self._moments().items()})
        return arrays, {
            "step": self.done, "updates": self.updates, "skipped": self.skipped, "bad": self.bad,
            "best": self.best, "scale": self.scale.state()
        }

    def _moments(self):
        return {f"{kind}/{weight.name}": moment
                for weight, found in zip(self.step.weights, self.step.moments())
                for kind, moment in found.items()}

    def restore(self, checkpoint, numbers):
        """Continue from a `state`: an open TensorStore, and the numbers.

        Raises CheckpointError if it is that of another model, or holds what is no number.
        """
        moments = self._moments()
        wanted = {name: parameter.shape for name, parameter in (self.kept | moments).items()}
        for name, shape in wanted.items():
            if name not in checkpoint or tuple(checkpoint.shape(name)) != tuple(shape):
                raise CheckpointError(f"{checkpoint.path}: {name} is missing or of another shape;"
                                      " it was made by another recipe")
            value, unfit = checkpoint.read(name), None
            if not np.isfinite(value).all():
                unfit = "found values that are not finite, expected numbers"
            elif name.startswith("v/") and (value < 0).any():
                unfit = "found values below 0, expected mean squares of gradients"
            if unfit:
                raise CheckpointError(f"{checkpoint.path}: {name}: {unfit}; the state is of no use:"
                                      " start a new run with --init and weights that were saved"
                                      " before")
            checkpoint.release(name)
        for name, parameter in self.kept.items():
            value = np.array(checkpoint.read(name))
            if name in self.exact:
                self.exact[name] = value
            parameter.set_data(Tensor(value).astype(parameter.dtype))
        for name, moment in moments.items():
            moment.set_data(Tensor(np.array(checkpoint.read(name))))
        for weight, master in zip(self.step.weights, self.step.master):
            if master is not weight:
                master.set_data(Tensor(np.array(checkpoint.read(weight.name))))
        self._graphs.clear()
        self.engine.release()       # a compiled step would continue with its own weights
        self.done, self.updates, self.skipped = (int(numbers[name])
                                                 for name in ("step", "updates", "skipped"))
        self.bad, self.best = int(numbers["bad"]), numbers["best"]
        self.scale.restore(numbers["scale"])
