"""One optimiser step as one compiled graph: gradients, clipping, AdamW with bias correction, moving average."""
import numpy as np
from mindspore import ParameterTuple, Tensor, nn
from mindspore import ops as ms_ops
from mindspore.ops import operations as P

_adam = P.Adam()
_update = ms_ops.MultitypeFuncGraph("adamw_update")
_square_sum = ms_ops.MultitypeFuncGraph("square_sum")


@_square_sum.register("Tensor")
def _square_sum_of(gradient):
    return (gradient * gradient).sum()


@_update.register("Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor")
def _update_one(rates, clip, weight, m, v, average, gradient):
    lr, beta1_power, beta2_power, eps, beta1, beta2, shrink, follow = rates
    ms_ops.assign(weight, weight * shrink)
    _adam(weight, m, v, beta1_power, beta2_power, lr, beta1, beta2, eps, gradient * clip)
    ms_ops.assign(average, average + follow * (weight - average))
    return True


class TrainStep(nn.Cell):
    """Decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101) as torch.optim.AdamW does it.

    MindSpore's own AdamWeightDecay has no bias correction; its fused Adam kernel has, and takes the decay beforehand.
    `objective(*batch)` -> loss. `average` is the exponential moving average of the weights, float32.
    """

    def __init__(self, objective, weights, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, clip_norm=0.0):
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.weights = ParameterTuple(weights)
        self.m = self.weights.clone("adam_m", "zeros")
        self.v = self.weights.clone("adam_v", "zeros")
        self.average = self.weights.clone("average", "same")
        self.betas, self.eps, self.weight_decay, self.clip_norm = betas, eps, weight_decay, clip_norm
        self.gradients = ms_ops.value_and_grad(objective, None, self.weights)
        self.map = ms_ops.HyperMap()

    def rates(self, step, lr, average_decay):
        """The step's scalars in one tensor; `step` counts from 1."""
        beta1, beta2 = self.betas
        # The kernel adds eps to sqrt(v); torch adds it to the bias-corrected root. The factor makes them one.
        eps = self.eps * np.sqrt(1 - beta2 ** step)
        values = [lr, beta1 ** step, beta2 ** step, eps, beta1, beta2, 1 - lr * self.weight_decay, 1 - average_decay]
        return Tensor(np.array(values, np.float32))

    def construct(self, rates, *batch):
        """-> loss and gradient norm before clipping."""
        loss, gradients = self.gradients(*batch)
        norm = ms_ops.sqrt(ms_ops.addn(self.map(_square_sum, gradients)))
        clip = ms_ops.ones_like(norm)
        if self.clip_norm > 0:
            clip = ms_ops.minimum(clip, self.clip_norm / (norm + 1e-6))
        done = self.map(ms_ops.partial(_update, rates, clip), self.weights, self.m, self.v, self.average, gradients)
        return ms_ops.depend(loss, done), norm
