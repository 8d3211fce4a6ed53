"""Attention layers against attention written out, and in slices."""
import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor
from support.gradients import draw, ours_gradients

from sgm.models.attention import Attention, TransformerBlock
from sgm.ops import tokens


def test_attention_to_one_token_is_its_value(relative_error):
    """to_out(to_v(token)) against the attention written out: softmax over one score is 1 for any query.

    So the result is the same for every pixel, its gradients are those of the long way, and query and key have none.
    """
    width, heads, context, frames, pixels = 12, 3, 5, 2, 4
    cell = Attention(width, heads, context)
    shapes = {"to_q": (width, width), "to_k": (width, context), "to_v": (width, context), "to_out": (width, width)}
    weights = {name: draw(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    bias, x, token, cotangent = (draw(9, width), draw(5, frames, pixels, width), draw(6, frames, context),
                                 draw(7, frames, pixels, width))

    def split(rows):                # (frames, n, width) -> (frames, heads, n, d)
        return rows.reshape(frames, -1, heads, width // heads).transpose(0, 2, 1, 3)

    def written_out(x, token, q, k, v, out, bias):
        tokens = token.reshape(frames, 1, context)
        queries, keys, values = (split(ms.ops.matmul(*pair)) for pair in ((x, q.T), (tokens, k.T), (tokens, v.T)))
        scores = ms.ops.softmax(ms.ops.matmul(queries, keys.swapaxes(-1, -2)) * (width // heads) ** -0.5, -1)
        merged = ms.ops.matmul(scores, values).transpose(0, 2, 1, 3).reshape(frames, pixels, width)
        return ms.ops.matmul(merged, out.T) + bias

    arrays = [x, token, *weights.values(), bias]
    theirs = written_out(*map(Tensor, arrays))
    for name, layer in (("to_v", cell.to_v), ("to_out", cell.to_out[0])):
        layer.weight.set_data(Tensor(weights[name]))
    cell.to_out[0].bias.set_data(Tensor(bias))
    ours = cell.attend_token(Tensor(token)).asnumpy()
    assert relative_error(np.repeat(ours[:, None], pixels, 1), theirs) < 1e-6

    parameters = ms.ParameterTuple([cell.to_v.weight, cell.to_out[0].weight, cell.to_out[0].bias])

    def weighted(token):
        return (cell.attend_token(token).expand_dims(1) * Tensor(cotangent)).sum()

    by_token, by_weight = ms.grad(weighted, 0, parameters)(Tensor(token))
    dx, dtoken, dq, dk, dv, dout, dbias = ours_gradients(written_out, arrays, cotangent)
    for mine, long_way in zip((by_token, *by_weight), (dtoken, dv, dout, dbias)):
        assert relative_error(mine, long_way) < 1e-6
    for unused in (dx, dq, dk):     # rounding of the long way
        assert np.abs(unused.asnumpy()).max() < 1e-5


def test_slices_of_a_transformer_compile_with_their_gradients(monkeypatch, relative_error):
    """Those of two slices of each feed-forward layer, as large maps need, are those of one."""
    block = TransformerBlock(32, 1, 16, over_time=True)
    for name, parameter in block.parameters_and_names():
        parameter.name = name
        parameter.set_data(Tensor(0.3 * draw(len(name), *parameter.shape)))
    weights = ParameterTuple(list(block.trainable_params()))
    x, vectors = Tensor(draw(0, 3 * 4, 32)), Tensor(draw(1, 3, 32))

    def gradients(slices):
        monkeypatch.setattr(tokens, "SLICE_BYTES", 12 // slices * 4 * 4 * 32)

        def loss(x, vectors):
            return (block(x, vectors, (1, 3, 2, 2)) ** 2).sum()

        @ms.jit
        def graph(x, vectors):
            return ms.value_and_grad(loss, None, weights)(x, vectors)
        return graph(x, vectors)
    (_, one), (_, two) = gradients(1), gradients(2)
    assert all(relative_error(mine, whole) < 2e-5 for mine, whole in zip(two, one) if whole.asnumpy().any())
