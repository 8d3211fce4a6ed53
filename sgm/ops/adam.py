"""Adam as one compiled step: loss, gradients and update of a small network (NeRF, DMTet)."""
import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn
from mindspore import ops as P

BETAS, EPS = (0.9, 0.99), 1e-15                 # Instant-NGP's


class AdamStep(nn.Cell):
    """A loss, its gradients and Adam's update (Kingma & Ba 2015) of `parameters` in one graph.

    loss: a cell that returns a scalar to minimize and further scalars. name: prefix of the moments'
    names. inputs: positions of the arguments of `loss` whose gradients are returned, too; none
    unless given. moments: another AdamStep of the same parameters, whose moments are continued.
    """

    def __init__(self, loss, parameters, name="adam", inputs=None, moments=None):
        super().__init__(auto_prefix=False)
        self.parameters_ = ParameterTuple(parameters)
        if moments is None:
            self.m = self.parameters_.clone(f"{name}_m", "zeros")
            self.v = self.parameters_.clone(f"{name}_v", "zeros")
        else:
            self.m, self.v = moments.m, moments.v
        self.gradients = ms.value_and_grad(loss, inputs, self.parameters_, has_aux=True)
        self.adam = P.Adam()
        self.count, self.with_inputs = len(parameters), inputs is not None

    def construct(self, rates, *batch):
        """Return what `loss` returns for `batch`, then the gradients of its inputs if asked for.

        rates: see `rates`.
        """
        values, gradients = self.gradients(*batch)
        more = ()
        if self.with_inputs:
            more = (gradients[0],)
            gradients = gradients[1]
        lr, beta1_power, beta2_power = rates
        done = ()
        for k in range(self.count):
            weight, m, v = self.parameters_[k], self.m[k], self.v[k]
            done = done + (
                self.adam(weight, m, v, beta1_power, beta2_power, lr, *BETAS, EPS, gradients[k]),
            )
        return (P.depend(values[0], done),) + values[1:] + more

    def begin(self, *values):
        """Give the parameters their values and all moments zeros; for `sgm.ops.compiled`.

        So does one object follow another in a compiled step, which does not see what `restore`
        changes once it has run (see `sgm.ops.release`).
        """
        done = ()
        for k in range(self.count):
            m, v = self.m[k], self.v[k]
            done = done + (
                P.assign(self.parameters_[k], values[k]), P.assign(m, P.zeros_like(m)),
                P.assign(v, P.zeros_like(v)),
            )
        return done

    def state(self):
        """Return {name: array} of the parameters and their moments."""
        return {f"{kind}.{p.name}": p.asnumpy() for kind, p in self._named()}

    def restore(self, arrays):
        """Take over what `state` returned, before a graph of this has run.

        Raises KeyError, and changes nothing, if an array is missing or of another shape.
        """
        for kind, p in self._named():
            if arrays[f"{kind}.{p.name}"].shape != p.shape:
                raise KeyError(p.name)
        for kind, p in self._named():
            p.set_data(Tensor(arrays[f"{kind}.{p.name}"]))

    def _named(self):
        return [
            (kind, p)
            for kind, group in (("parameter", self.parameters_), ("m", self.m), ("v", self.v))
            for p in group
        ]


def rates(step, lr):
    """Return Adam's scalars (3,) of step 0, 1, ...: learning rate and powers of the betas."""
    return Tensor(np.array([lr, BETAS[0] ** (step + 1), BETAS[1] ** (step + 1)], np.float32))
