"""VideoUNet: the denoising network of SVD and SV3D, with the published parameter names."""
import mindspore as ms
from mindspore import nn

from sgm import ops
from sgm.models.architecture import DOWNSAMPLE, RESIDUAL, STEM, TRANSFORMER, UPSAMPLE, unet_blocks
from sgm.models.attention import VideoTransformer
from sgm.models.blocks import (
    Block,
    Conv,
    Downsample,
    Embedding,
    Stem,
    TokenGroupNorm,
    Upsample,
    VideoResBlock,
)


class VideoUNet(nn.Cell):
    """The UNet over space and time.

    spec: `sgm.config.model.UNetSpec`; vector_width: columns of the vector condition (published
    `adm_in_channels`).
    """

    def __init__(self, spec, vector_width):
        super().__init__()
        width = spec.model_channels
        embedding = 4 * width
        groups = spec.norm_groups
        self.width = width
        self.out_channels = spec.out_channels
        self.time_embed = Embedding(width, embedding, embedding)
        self.label_emb = nn.CellList([Embedding(vector_width, embedding, embedding)])

        def cell(layer):
            width_in, width_out = layer.width_in, layer.width_out
            if layer.kind == RESIDUAL:
                return VideoResBlock(width_in, embedding, width_out, groups)
            if layer.kind == TRANSFORMER:
                return VideoTransformer(width_out, spec.num_head_channels, spec.context_dim, groups)
            if layer.kind == STEM:
                return Stem(width_in, width_out)
            return {DOWNSAMPLE: Downsample, UPSAMPLE: Upsample}[layer.kind](width_out)

        def blocks(part):
            return [Block(*map(cell, layers)) for layers in unet_blocks(spec)
                    if layers[0].key.startswith(part)]

        self.input_blocks = nn.CellList(blocks("input_blocks"))
        self.middle_block, = blocks("middle_block")
        self.output_blocks = nn.CellList(blocks("output_blocks"))
        head, = unet_blocks(spec)[-1]
        self.out = nn.CellList(
            [TokenGroupNorm(head.width_in, groups), nn.SiLU(),
             Conv(head.width_in, head.width_out, 3, 3)])
        offset = 0
        self.transformers = tuple(cell for _, cell in self.cells_and_names()
                                  if isinstance(cell, VideoTransformer))
        for transformer in self.transformers:
            transformer.offset = offset
            offset += 3 * transformer.width

    def prepare(self, context, num_video_frames):
        """Return all that depends on the context (F, 1, D) only, packed as (F, K).

        Sampling computes it once a run. Raises ValueError unless the context is one token a frame.
        """
        if context.ndim != 3 or context.shape[1] != 1:
            raise ValueError(f"context: found shape {context.shape}, expected (frames, 1, D):"
                             " one token a frame")
        count, _, dim = context.shape
        token = context.reshape(count, dim)
        videos = count // num_video_frames
        first = token.reshape(videos, num_video_frames, dim)[:, :1]
        first = first.broadcast_to((videos, num_video_frames, dim)).reshape(count, dim)
        index = ops.frame_index(videos, num_video_frames)
        vectors = ()
        # A tuple, not a list: gradients are lost through a list's `extend`.
        for transformer in self.transformers:
            vectors = vectors + transformer.context_vectors(token, first, index)
        return ms.ops.concat(vectors, 1)

    def evaluate(self, x, timesteps, prepared, y, image_only, num_video_frames):
        """Evaluate the network once: returns (F, out, h, w) in the dtype of `prepared`.

        x (F, in, h, w), timesteps (F,), prepared (F, K) from `prepare`, y (F, vector_width),
        image_only (F,) is 1 for image-only frames; F = videos * num_video_frames.
        """
        count, channels, height, width = x.shape
        grid = (count // num_video_frames, num_video_frames, height, width)
        dtype = prepared.dtype
        emb = self.time_embed(ops.timestep_embedding(timesteps, self.width).astype(dtype))
        emb = ops.silu(emb + self.label_emb[0](y.astype(dtype)))
        h = x.astype(dtype).transpose(0, 2, 3, 1).reshape(count * height * width, channels)
        skips = []
        for block in self.input_blocks:
            h, grid = block(h, emb, prepared, image_only, grid)
            skips.append(h)
        h, grid = self.middle_block(h, emb, prepared, image_only, grid)
        for i, block in enumerate(self.output_blocks):
            h, grid = block(ms.ops.concat((h, skips[-1 - i]), 1), emb, prepared, image_only, grid)
        norm, conv = self.out[0], self.out[2]
        h = ops.silu(norm(h, count))
        h = ops.conv3x3(h, conv.weight, conv.bias, count, height, width)
        return h.reshape(count, height, width, self.out_channels).transpose(0, 3, 1, 2)

    def construct(self, x, timesteps, context, y, num_video_frames, image_only_indicator=None):
        """Prepare and evaluate: returns (B*T, out, h, w).

        x (B*T, in, h, w), timesteps (B*T,), context (B*T, 1, D), y (B*T, vector_width),
        image_only_indicator (B, T) is 1 where a frame is a still image.
        """
        if image_only_indicator is None:
            image_only = ms.ops.zeros((x.shape[0],), ms.float32)
        else:
            image_only = image_only_indicator.reshape(-1).astype(ms.float32)
        prepared = self.prepare(context, num_video_frames)
        return self.evaluate(x, timesteps, prepared, y, image_only, num_video_frames)
