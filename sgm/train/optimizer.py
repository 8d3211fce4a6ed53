"""An optimizer step as compiled graphs, between which the host decides whether it is made at all.

Gradients of one batch or several, their norm, AdamW with bias correction or Muon, moving average.
"""
import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn
from mindspore import ops as ms_ops
from mindspore.ops import operations as P

from sgm.train import muon

GROUP = 128     # weights that are updated in one graph; a further graph costs 10 to 20 ms a step
# Primitives, not the operators of tensors, and scalars unpacked once: MindSpore compiles what is
# done to each weight by itself, and the Python functions behind operators took 10 MB and 0.15 s a
# weight.
_adam, _assign, _assign_add = P.Adam(), P.Assign(), P.AssignAdd()
_mul, _sub, _sum = P.Mul(), P.Sub(), P.ReduceSum()
_cast, _zeros_like = P.Cast(), P.ZerosLike()
_update = ms_ops.MultitypeFuncGraph("adamw_update")
_turn = ms_ops.MultitypeFuncGraph("muon_update")
_square_sum = ms_ops.MultitypeFuncGraph("square_sum")
_put = ms_ops.MultitypeFuncGraph("put")
_add = ms_ops.MultitypeFuncGraph("add")
_zero = ms_ops.MultitypeFuncGraph("zero")
_exchange = ms_ops.MultitypeFuncGraph("exchange")
_follow = ms_ops.MultitypeFuncGraph("follow")


@_square_sum.register("Tensor")
def _square_sum_of(gradient):
    return _sum(_mul(gradient, gradient), ())


@_put.register("Tensor", "Tensor")
def _put_one(target, value):
    _assign(target, _cast(value, target.dtype))
    return True


@_add.register("Tensor", "Tensor")
def _add_one(target, value):
    _assign_add(target, _cast(value, target.dtype))
    return True


@_zero.register("Tensor")
def _zero_one(target):
    _assign(target, _zeros_like(target))
    return True


@_exchange.register("Function", "Tensor")
def _exchange_one(reduce, total):
    _assign(total, reduce(total))
    return True


@_follow.register("Function", "Tensor")
def _follow_one(first, value):
    _assign(value, first((value,))[0])
    return True


@_update.register(*["Tensor"] * 14)
def _update_one(lr, beta1_power, beta2_power, eps, beta1, beta2, shrink, follow, clip,
                weight, m, v, average, gradient):
    _assign(weight, _mul(weight, shrink))
    _adam(weight, m, v, beta1_power, beta2_power, lr, beta1, beta2, eps, _mul(gradient, clip))
    _assign_add(average, _mul(_sub(weight, average), follow))
    return True


@_turn.register(*["Tensor"] * 8)
def _turn_one(lr, shrink, follow, clip, weight, m, average, gradient):
    gradient = _mul(gradient, clip)
    momentum = muon.MOMENTUM * m + gradient
    step = muon.direction(gradient, momentum)
    _assign(m, momentum)
    _assign(weight, _sub(_mul(weight, shrink), _mul(step, lr)))
    _assign_add(average, _mul(_sub(weight, average), follow))
    return True


class _Scaled(nn.Cell):
    """The loss times a factor, whose gradients are taken, and the loss itself."""

    def __init__(self, objective):
        super().__init__(auto_prefix=False)
        self.objective = objective

    def construct(self, scale, batch):
        """Return the scaled loss and the loss."""
        loss = self.objective(*batch)
        return loss * scale, loss


class TrainStep(nn.Cell):
    """AdamW, decoupled weight decay, as torch.optim does it; or Muon for weight matrices.

    Source: Loshchilov & Hutter 2019, arXiv 1711.05101. MindSpore's own AdamWeightDecay has no bias
    correction; its fused Adam kernel has, and takes the decay beforehand. `objective(*batch)`
    returns the loss, a float32 scalar. weights: float32 Parameters; `average` is their exponential
    moving average. accumulate: batches whose mean gradient makes a step. half: the weights
    have half precision, or the caller gives it to them after this; `master` then holds them in
    float32, and the weights follow it. world_size: devices that each have their own batches, and
    whose gradients are added. weight_decay: of all weights, Muon's too. with_muon: matrices
    are updated by Muon (see `sgm.train.muon`), which keeps no second moment.
    """

    def __init__(self, objective, weights, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
                 clip_norm=0.0, accumulate=1, half=False, world_size=1, with_muon=False):
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.weights = ParameterTuple(weights)
        self.half = half
        self.master = self.weights
        if half:
            self.master = self.weights.clone("master", "same")
            for parameter in self.master:
                parameter.set_dtype(ms.float32)
        self.m = self.master.clone("adam_m", "zeros")
        self.average = self.master.clone("average", "same")
        # between steps they are free, or zero if they accumulate
        self.sums = self.master.clone("gradient", "zeros")
        matrix = [with_muon and muon.is_matrix(w.name, w.shape) for w in weights]
        self.plain = self._chosen(k for k in range(len(matrix)) if not matrix[k])
        self.matrices = self._chosen(k for k in range(len(matrix)) if matrix[k])
        self.v = self.plain[1].clone("adam_v", "zeros")
        self.betas, self.eps = betas, eps
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        self.several = accumulate > 1
        self.reduce = P.AllReduce() if world_size > 1 else None
        self.first = P.Broadcast(0) if world_size > 1 else None
        self.gradients = ms_ops.value_and_grad(_Scaled(objective), None, self.weights, has_aux=True)
        self.map = ms_ops.HyperMap()
        # The last weights' gradients are ready first: from the last to the first, each is put away
        # at once, and not all of them wait for the first one's.
        self.map_back = ms_ops.HyperMap(reverse=True)

    def _chosen(self, positions):
        """Return what belongs to the weights at these positions, in five groups."""
        positions = list(positions)
        groups = self.weights, self.master, self.m, self.average, self.sums
        return [ParameterTuple([group[k] for k in positions]) for group in groups]

    def rates(self, step, lr, average_decay):
        """Return the step's scalars in one tensor; `step` counts from 1."""
        beta1, beta2 = self.betas
        # The kernel adds eps to sqrt(v); torch adds it to the bias-corrected root. The factor makes
        # them one.
        eps = self.eps * np.sqrt(1 - beta2 ** step)
        values = [
            lr, beta1**step, beta2**step, eps, beta1, beta2, 1 - lr * self.weight_decay,
            1 - average_decay
        ]
        return Tensor(np.array(values, np.float32))

    def accumulate(self, scale, *batch):
        """Put the gradients of `scale` times a batch's loss into `sums`, or add them.

        Returns the loss.
        """
        (_, loss), gradients = self.gradients(scale, batch)
        done = self.map_back(_add if self.several else _put, self.sums, gradients)
        return ms_ops.depend(loss, done)

    def all_reduce_norm(self, scalars):
        """Return the global norm of `sums`, and `scalars`, both added up over all devices.

        The devices' `sums` are then the same.
        """
        if self.reduce is not None:
            # not a loop: the compiler nests its turns, and gives up at a thousand
            done = self.map(ms_ops.partial(_exchange, self.reduce), self.sums)
            scalars = ms_ops.depend(self.reduce(scalars), done)
        return ms_ops.sqrt(ms_ops.addn(self.map(_square_sum, self.sums))), scalars

    def broadcast_weights(self):
        """Give all devices the weights and averages of the first one."""
        follow = ms_ops.partial(_follow, self.first)
        done = self.map(follow, self.master) + self.map(follow, self.average)
        return ms_ops.depend(self.map(_put, self.weights, self.master), done)

    def update_all(self, run, rates, clip):
        """Update all weights by run(name of a method, ...), which compiles and runs that method.

        They come in groups, each a graph of its own: memory and time of compilation grow faster
        than the number of weights. Returns `clip`, once all are updated.
        """
        for name, count in (("update", len(self.v)), ("turn", len(self.matrices[0]))):
            for first in range(0, count, GROUP):
                clip = run(name, rates, clip, first, first + GROUP)
        return clip

    def update(self, rates, clip, first=0, last=None):
        """Apply AdamW to its weights first ... last - 1, all by default; returns `clip`.

        Their gradients are `clip` times `sums`, which are then cleared if they accumulate.
        """
        lr, beta1_power, beta2_power, eps, beta1, beta2, shrink, follow = rates
        update = ms_ops.partial(_update, lr, beta1_power, beta2_power, eps, beta1, beta2, shrink,
                                follow, clip)
        weights, master, m, average, sums = [group[first:last] for group in self.plain]
        done = self.map(update, master, m, self.v[first:last], average, sums)
        return ms_ops.depend(clip, self._finish(done, weights, master, sums))

    def turn(self, rates, clip, first=0, last=None):
        """Apply Muon to its matrices, as `update` applies AdamW to the other weights."""
        lr, _, _, _, _, _, shrink, follow = rates
        turn = ms_ops.partial(_turn, lr, shrink, follow, clip)
        weights, master, m, average, sums = [group[first:last] for group in self.matrices]
        done = self.map(turn, master, m, average, sums)
        return ms_ops.depend(clip, self._finish(done, weights, master, sums))

    def _finish(self, done, weights, master, sums):
        if self.half:
            done = done + self.map(_put, weights, master)
        if self.several:
            done = done + self.map(_zero, sums)
        return done

    def moments(self):
        """Return, for each weight, {"m", "v", "average": Parameter}; a matrix of Muon has no v."""
        second = {master.name: v for master, v in zip(self.plain[1], self.v)}
        found = []
        for master, m, average in zip(self.master, self.m, self.average):
            found.append({"m": m, "average": average})
            if master.name in second:
                found[-1]["v"] = second[master.name]
        return found

    def clear(self):
        """Forget accumulated gradients."""
        return self.map(_zero, self.sums)

    def clip(self, norm):
        """Return the factor for gradients of that norm."""
        return np.float32(min(1.0, self.clip_norm / (norm + 1e-6)) if self.clip_norm > 0 else 1.0)

    def show_average(self):
        """Put the moving average in the weights' place; `show_weights` brings them back."""
        if not self.half:
            self.map(_put, self.sums, self.weights)
        return self.map(_put, self.weights, self.average)

    def show_weights(self):
        """Undo `show_average`, to the last bit."""
        done = self.map(_put, self.weights, self.master if self.half else self.sums)
        if self.several:
            done = done + self.clear()
        return done

    def construct(self, rates, *batch):
        """Make a whole step of one batch; return loss and gradient norm before clipping.

        It is one graph.
        """
        one = ms_ops.ones((), ms.float32)
        norm, loss = self.all_reduce_norm(self.accumulate(one, *batch))
        clip = one
        if self.clip_norm > 0:
            clip = ms_ops.minimum(clip, self.clip_norm / (norm + 1e-6))
        if self.matrices[0]:
            clip = self.turn(rates, clip)
        return ms_ops.depend(loss, self.update(rates, clip)), norm
