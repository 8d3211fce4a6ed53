"""Floating-point operations of the original implementation, from its layer lists.

Counted are products of matrices and convolutions, two operations for each multiplication, as
PyTorch's flop counter does. The original computes per pixel what is the same for all pixels, and at
every step what is the same for all steps: cross-attention to its one token (queries of every pixel;
over time also keys and values), and position embeddings.
"""
from sgm.models.architecture import (
    MIDDLE,
    RESIDUAL,
    TRANSFORMER,
    decoder_layers,
    encoder_layers,
    unet_layers,
)


def unet(spec, height, width, frames):
    """Return the operations of one evaluation of the video UNet on latents height x width.

    frames: of all videos and both sides of the guidance.
    """
    net, videos = spec.unet, max(1, frames // spec.num_frames)
    embedding = 4 * net.model_channels
    vector = sum(spec.vector_widths.values())
    count = _Count()
    for width_in in (net.model_channels, vector):
        count.linear(frames, width_in, embedding)
        count.linear(frames, embedding, embedding)

    def residual(rows, width_in, width_out):
        count.resnet(rows, width_in, width_out)
        count.conv(2 * rows, width_out, width_out, 3)       # over frames
        count.linear(2 * frames, embedding, width_out)

    def transformer(pixels, c):
        rows = frames * pixels
        count.linear(2 * rows, c, c)                        # into and out of the block
        count.linear(frames, c, 4 * c)                      # position of the frames
        count.linear(frames, 4 * c, c)
        spatial, temporal = (pixels, frames, 1), (frames // videos, videos * pixels, 2)
        for tokens, contexts, feeds in (spatial, temporal):
            count.linear(4 * rows, c, c)                    # self-attention: query, key, value, out
            count.product(rows, tokens, c)
            count.product(rows, c, tokens)
            count.linear(2 * rows, c, c)                    # cross-attention: query, out
            count.linear(2 * contexts, net.context_dim, c)  # key, value
            count.product(2 * rows, 1, c)
            count.linear(feeds * rows, c, 8 * c)            # gated feed-forward
            count.linear(feeds * rows, 4 * c, c)

    for layer in unet_layers(net):
        pixels = (height >> layer.level) * (width >> layer.level)
        if layer.kind == RESIDUAL:
            residual(frames * pixels, layer.width_in, layer.width_out)
        elif layer.kind == TRANSFORMER:
            transformer(pixels, layer.width_out)
        else:
            count.conv(frames * pixels, layer.width_in, layer.width_out, 9)
    return count.flops


def encoder(spec, height, width, images):
    """Return the operations of the encoder on images whose latents are height x width."""
    moments, count = 2 * spec.vae.z_channels, _Count()
    count.coder(encoder_layers(spec.vae), images, height, width)
    count.linear(images * height * width, moments, moments)
    return count.flops


def decoder(spec, height, width, images):
    """Return the operations of the model's decoder, image by image or over time."""
    vae, count = spec.vae, _Count(temporal=spec.vae.decoder == "temporal")
    if vae.post_quant_conv:
        count.linear(images * height * width, vae.z_channels, vae.z_channels)
    count.coder(decoder_layers(vae), images, height, width)
    if count.temporal:
        count.conv(images * height * width * vae.factor ** 2, 3, 3, 3)
    return count.flops


def clip(spec):
    """Return the operations of the image tower on one image."""
    count, c = _Count(), spec.width
    patches = (spec.image_size // spec.patch_size) ** 2
    tokens = patches + 1
    count.linear(patches, 3 * spec.patch_size ** 2, c)
    for _ in range(spec.layers):
        count.linear(4 * tokens, c, c)
        count.product(2 * tokens, tokens, c)
        count.linear(2 * tokens, c, 4 * c)
    count.linear(1, c, spec.embed_dim)
    return count.flops


class _Count:
    """Adds up operations."""

    def __init__(self, temporal=False):
        self.flops, self.temporal = 0, temporal

    def product(self, rows, columns, inner):
        self.flops += 2 * rows * columns * inner

    def linear(self, rows, width_in, width_out):
        self.product(rows, width_out, width_in)

    def conv(self, rows_out, width_in, width_out, taps):
        self.product(rows_out, width_out, taps * width_in)

    def resnet(self, rows, width_in, width_out):
        self.conv(rows, width_in, width_out, 9)
        self.conv(rows, width_out, width_out, 9)
        if width_in != width_out:
            self.linear(rows, width_in, width_out)
        if self.temporal:
            self.conv(2 * rows, width_out, width_out, 3)

    def coder(self, layers, images, height, width):
        """Add the autoencoder's encoder or decoder on images whose latents are height x width."""
        deepest = max(layer.level for layer in layers)
        for layer in layers:
            rows = images * height * width * 4 ** (deepest - layer.level)
            if layer.kind == RESIDUAL:
                self.resnet(rows, layer.width_in, layer.width_out)
            elif layer.kind == MIDDLE:
                self.middle(rows, height * width, layer.width_out)
            else:
                self.conv(rows, layer.width_in, layer.width_out, 9)

    def middle(self, rows, pixels, width):
        self.resnet(rows, width, width)
        self.linear(4 * rows, width, width)
        self.product(2 * rows, pixels, width)
        self.resnet(rows, width, width)
