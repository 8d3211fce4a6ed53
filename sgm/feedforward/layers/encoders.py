"""The vision transformers that turn an image into tokens, under their published names.

DINOv2 (Oquab et al. 2023, arXiv 2304.07193) with transformers' names (VFusion3D); the original's
with registers (Darcet et al. 2023, arXiv 2309.16588; OpenLRM); DINO's ViT with transformers' names
(TripoSR). Tokens are rows (images * tokens, width), the class token first.
"""
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as ms_ops

from sgm import ops
from sgm.models.blocks import LayerNorm, Linear, empty
from sgm.models.resampling import antialiased_bicubic, bicubic

# of ImageNet's pictures in [0, 1], which DINO and DINOv2 were trained with
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def position_matrices(family, stored, rows, columns):
    """Return what resamples a position embedding of stored x stored patches: two matrices, or None.

    They are float32 (rows, stored) and (columns, stored); None means that it fits as it is.
    vfusion3d, triposr: transformers up to 4.43 give the interpolation a scale factor that is 0.1
    patch too large (transformers 5 does not). openlrm: DINOv2's models with registers antialias.
    """
    if rows == columns == stored:
        return None
    if family == "openlrm":
        pair = [antialiased_bicubic(stored, count) for count in (rows, columns)]
    else:
        pair = [bicubic((np.arange(count) + 0.5) * stored / (count + 0.1) - 0.5, stored)
                for count in (rows, columns)]
    return tuple(matrix.astype(np.float32) for matrix in pair)


def attend(q, k, v, count, heads):
    """Return multi-head attention of queries (count * n, C) to keys and values (count * m, C)."""
    q = ops.split_heads(q, (count, 1, q.shape[0] // count, 1), heads, False)
    k = ops.split_heads(k, (count, 1, k.shape[0] // count, 1), heads, False)
    v = ops.split_heads(v, (count, 1, v.shape[0] // count, 1), heads, False)
    return ops.merge_heads(ops.attention(q, k, v), (count, 1, q.shape[2], 1), False)


class PatchProjection(nn.Cell):
    """Convolution of stride = kernel = patch, as one product; what is left of an image is cut off.
    """

    def __init__(self, width, patch):
        super().__init__()
        self.patch = patch
        self.weight = empty(width, 3, patch, patch)
        self.bias = empty(width)

    def construct(self, x):
        """Map (B, 3, H, W) to (B * patches, width)."""
        count, _, height, width = x.shape
        rows, columns, patch = height // self.patch, width // self.patch, self.patch
        x = x[:, :, :rows * patch, :columns * patch]
        x = x.reshape(count, 3, rows, patch, columns, patch).transpose(0, 2, 4, 1, 3, 5)
        x = x.reshape(count * rows * columns, 3 * patch * patch)
        return ops.linear(x, self.weight.reshape(self.weight.shape[0], -1), self.bias)


class Positions(nn.Cell):
    """Resamples a stored position embedding (1, 1 + g * g, C) for an image of H x W pixels."""

    def __init__(self, spec, family, size):
        """size: (H, W)."""
        super().__init__(auto_prefix=False)
        self.grid = spec.grid
        self.sides = tuple(side // spec.patch_size for side in size)
        matrices = position_matrices(family, spec.grid, *self.sides)
        self.fits = matrices is None
        if not self.fits:
            self.rows, self.columns = map(Tensor, matrices)

    def construct(self, stored):
        """Return (1, 1 + patches, C), the class token's first."""
        if self.fits:
            return stored
        grid, width = self.grid, stored.shape[2]
        patches = stored[0, 1:].reshape(grid, grid * width)
        patches = ms_ops.matmul(self.rows, patches).reshape(self.sides[0], grid, width)
        patches = ms_ops.matmul(self.columns, patches).reshape(1, -1, width)
        return ms_ops.concat((stored[:, :1], patches), 1)


class Encoder(nn.Cell):
    """What the three have in common: normalization of the image, class token, positions."""

    def __init__(self, spec, family, size, normalize=True):
        super().__init__()
        self.positions = Positions(spec, family, size)
        self.normalize = normalize
        self.mean = Tensor(np.float32(MEAN).reshape(1, 3, 1, 1))
        self.std = Tensor(np.float32(STD).reshape(1, 3, 1, 1))

    def embed(self, image, projection, first, stored):
        """Return tokens (B, 1 + patches, C) of an image (B, 3, H, W) in [0, 1], with positions.

        first: the class token (1, 1, C); stored: the position embedding.
        """
        if self.normalize:
            image = (image - self.mean) / self.std
        count, width = image.shape[0], first.shape[2]
        patches = projection(image).reshape(count, -1, width)
        first = first.broadcast_to((count, 1, width))
        return ms_ops.concat((first, patches), 1) + self.positions(stored)


class Holder(nn.Cell):
    """Sub-cells under their published names, given as keywords."""

    def __init__(self, **cells):
        super().__init__()
        for name, cell in cells.items():
            setattr(self, name, cell)


class Mlp(nn.Cell):
    """The published `mlp`: linear, GELU, linear."""

    def __init__(self, width, inner):
        super().__init__()
        self.fc1 = Linear(width, inner)
        self.fc2 = Linear(inner, width)

    def construct(self, x):
        """Map (rows, C) to (rows, C)."""
        return self.fc2(ops.gelu(self.fc1(x)))


class SeparateAttention(nn.Cell):
    """The published `attention` of transformers: query, key and value are layers of their own."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.attention = Holder(query=Linear(width, width), key=Linear(width, width),
                                value=Linear(width, width))
        self.output = Holder(dense=Linear(width, width))

    def construct(self, x, count):
        """Attend within each of `count` images of tokens (rows, C)."""
        layers = self.attention
        x = attend(layers.query(x), layers.key(x), layers.value(x), count, self.heads)
        return self.output.dense(x)


class JointAttention(nn.Cell):
    """The published `attn` of the original DINOv2: one layer gives query, key and value."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def construct(self, x, count):
        """Attend within each of `count` images of tokens (rows, C)."""
        width = x.shape[1]
        qkv = self.qkv(x)
        x = attend(qkv[:, :width], qkv[:, width:2 * width], qkv[:, 2 * width:], count, self.heads)
        return self.proj(x)


class Dinov2Layer(nn.Cell):
    """A block of transformers' Dinov2Model: its results are scaled channel by channel."""

    def __init__(self, width, heads, inner):
        super().__init__()
        self.norm1 = LayerNorm(width, 1e-6)
        self.attention = SeparateAttention(width, heads)
        self.layer_scale1 = Holder(lambda1=empty(width))
        self.norm2 = LayerNorm(width, 1e-6)
        self.mlp = Mlp(width, inner)
        self.layer_scale2 = Holder(lambda1=empty(width))

    def construct(self, x, count):
        """Map tokens (rows, C) of `count` images to the same shape."""
        x = x + self.attention(self.norm1(x), count) * self.layer_scale1.lambda1
        return x + self.mlp(self.norm2(x)) * self.layer_scale2.lambda1


class OriginalLayer(nn.Cell):
    """A block of the original DINOv2: the same under other names."""

    def __init__(self, width, heads, inner):
        super().__init__()
        self.norm1 = LayerNorm(width, 1e-6)
        self.attn = JointAttention(width, heads)
        self.ls1 = Holder(gamma=empty(width))
        self.norm2 = LayerNorm(width, 1e-6)
        self.mlp = Mlp(width, inner)
        self.ls2 = Holder(gamma=empty(width))

    def construct(self, x, count):
        """Map tokens (rows, C) of `count` images to the same shape."""
        x = x + self.attn(self.norm1(x), count) * self.ls1.gamma
        return x + self.mlp(self.norm2(x)) * self.ls2.gamma


class VitLayer(nn.Cell):
    """A block of transformers' ViTModel."""

    def __init__(self, width, heads, inner):
        super().__init__()
        self.attention = SeparateAttention(width, heads)
        self.intermediate = Holder(dense=Linear(width, inner))
        self.output = Holder(dense=Linear(inner, width))
        self.layernorm_before = LayerNorm(width, 1e-12)
        self.layernorm_after = LayerNorm(width, 1e-12)

    def construct(self, x, count):
        """Map tokens (rows, C) of `count` images to the same shape."""
        x = x + self.attention(self.layernorm_before(x), count)
        inner = ops.gelu(self.intermediate.dense(self.layernorm_after(x)))
        return x + self.output.dense(inner)


class TransformersVit(Encoder):
    """transformers' Dinov2Model or ViTModel: what they give as `last_hidden_state`."""

    def __init__(self, spec, family, size):
        super().__init__(spec, family, size)
        block, eps = (VitLayer, 1e-12) if family == "triposr" else (Dinov2Layer, 1e-6)
        self.embeddings = Holder(
            cls_token=empty(1, 1, spec.width),
            position_embeddings=empty(1, 1 + spec.grid ** 2, spec.width),
            patch_embeddings=Holder(projection=PatchProjection(spec.width, spec.patch_size)))
        self.encoder = Holder(layer=nn.CellList(
            [block(spec.width, spec.heads, spec.mlp_ratio * spec.width)
             for _ in range(spec.layers)]))
        self.layernorm = LayerNorm(spec.width, eps)

    def construct(self, image):
        """Map images (B, 3, H, W) in [0, 1] to tokens (B, 1 + patches, width)."""
        given = self.embeddings
        x = self.embed(image, given.patch_embeddings.projection, given.cls_token,
                       given.position_embeddings)
        shape = x.shape
        x = x.reshape(-1, shape[2])
        for layer in self.encoder.layer:
            x = layer(x, shape[0])
        return self.layernorm(x).reshape(shape)


class OriginalDinov2(Encoder):
    """The original DINOv2 with registers, which attend but are left out of the result."""

    def __init__(self, spec, family, size, normalize=False):    # openlrm trains it without
        super().__init__(spec, family, size, normalize)
        self.cls_token = empty(1, 1, spec.width)
        self.pos_embed = empty(1, 1 + spec.grid ** 2, spec.width)
        self.registers = spec.registers
        self.register_tokens = empty(1, spec.registers, spec.width) if spec.registers else None
        self.patch_embed = Holder(proj=PatchProjection(spec.width, spec.patch_size))
        self.blocks = nn.CellList(
            [OriginalLayer(spec.width, spec.heads, spec.mlp_ratio * spec.width)
             for _ in range(spec.layers)])
        self.norm = LayerNorm(spec.width, 1e-6)

    def construct(self, image):
        """Map images (B, 3, H, W) in [0, 1] to tokens (B, 1 + patches, width)."""
        x = self.embed(image, self.patch_embed.proj, self.cls_token, self.pos_embed)
        count, _, width = x.shape
        if self.registers:
            extra = self.register_tokens.broadcast_to((count, self.registers, width))
            x = ms_ops.concat((x[:, :1], extra, x[:, 1:]), 1)
        shape = x.shape
        x = x.reshape(-1, width)
        for block in self.blocks:
            x = block(x, count)
        x = self.norm(x).reshape(shape)
        if self.registers:
            x = ms_ops.concat((x[:, :1], x[:, 1 + self.registers:]), 1)
        return x
