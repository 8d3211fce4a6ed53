"""Floating-point operations of the reference implementation, from its layer lists: products of matrices and convolutions,
two operations for each multiplication, as PyTorch's flop counter counts them.

The reference computes what is the same for all pixels once per pixel, and what is the same for all steps at every step:
cross-attention to its one token (queries of every pixel; over time also keys and values), and position embeddings.
"""


def unet(spec, height, width, frames):
    """One evaluation of the video UNet on `frames` frames (of all videos, both sides of the guidance) of latents."""
    net, videos = spec.unet, max(1, frames // spec.num_frames)
    embedding = 4 * net.model_channels
    vector = sum(spec.vector_widths.values())
    count = _Count()
    for width_in in (net.model_channels, vector):
        count.linear(frames, width_in, embedding)
        count.linear(frames, embedding, embedding)
    grid = frames, height, width

    def block(grid, width_in, width_out, attends):
        rows = grid[0] * grid[1] * grid[2]
        count.conv(rows, width_in, width_out, 9)
        count.conv(rows, width_out, width_out, 9)
        count.conv(rows, width_out, width_out, 3)
        count.conv(rows, width_out, width_out, 3)
        count.linear(frames, embedding, width_out)
        count.linear(frames, embedding, width_out)
        if width_in != width_out:
            count.linear(rows, width_in, width_out)
        if attends:
            transformer(grid, width_out)

    def transformer(grid, c):
        pixels, rows = grid[1] * grid[2], grid[0] * grid[1] * grid[2]
        count.linear(2 * rows, c, c)                            # into and out of the block
        count.linear(frames, c, 4 * c)                          # position of the frames
        count.linear(frames, 4 * c, c)
        for tokens, contexts, feeds in ((pixels, frames, 1), (frames // videos, videos * pixels, 2)):
            count.linear(4 * rows, c, c)                        # self-attention: query, key, value, out
            count.product(rows, tokens, c)
            count.product(rows, c, tokens)
            count.linear(2 * rows, c, c)                        # cross-attention: query, out
            count.linear(2 * contexts, net.context_dim, c)      # key, value
            count.product(2 * rows, 1, c)
            count.linear(feeds * rows, c, 8 * c)                # gated feed-forward
            count.linear(feeds * rows, 4 * c, c)

    rows = frames * height * width
    count.conv(rows, net.in_channels, net.model_channels, 9)
    skips, now, factor = [net.model_channels], net.model_channels, 1
    for level, multiple in enumerate(net.channel_mult):
        for _ in range(net.num_res_blocks):
            block(grid, now, multiple * net.model_channels, factor in net.attention_resolutions)
            now = multiple * net.model_channels
            skips.append(now)
        if level < len(net.channel_mult) - 1:
            grid, factor = (frames, grid[1] // 2, grid[2] // 2), 2 * factor
            count.conv(grid[0] * grid[1] * grid[2], now, now, 9)
            skips.append(now)
    block(grid, now, now, True)
    block(grid, now, now, False)
    for level, multiple in reversed(list(enumerate(net.channel_mult))):
        for i in range(net.num_res_blocks + 1):
            block(grid, now + skips.pop(), multiple * net.model_channels, factor in net.attention_resolutions)
            now = multiple * net.model_channels
            if level and i == net.num_res_blocks:
                grid, factor = (frames, 2 * grid[1], 2 * grid[2]), factor // 2
                count.conv(grid[0] * grid[1] * grid[2], now, now, 9)
    count.conv(rows, now, net.out_channels, 9)
    return count.flops


def encoder(spec, height, width, images):
    """The autoencoder's encoder, of images whose latents are height x width."""
    vae, count = spec.vae, _Count()
    rows = images * height * width * vae.factor ** 2
    now = vae.ch
    count.conv(rows, 3, now, 9)
    for level, multiple in enumerate(vae.ch_mult):
        for _ in range(vae.num_res_blocks):
            count.resnet(rows, now, multiple * vae.ch)
            now = multiple * vae.ch
        if level < len(vae.ch_mult) - 1:
            rows //= 4
            count.conv(rows, now, now, 9)
    count.middle(rows, height * width, now)
    count.conv(rows, now, 2 * vae.z_channels, 9)
    count.linear(rows, 2 * vae.z_channels, 2 * vae.z_channels)
    return count.flops


def decoder(spec, height, width, images):
    """The autoencoder's decoder, image by image or over time as the model has it."""
    vae, count = spec.vae, _Count(temporal=spec.vae.decoder == "temporal")
    rows, now = images * height * width, vae.ch * vae.ch_mult[-1]
    if vae.post_quant_conv:
        count.linear(rows, vae.z_channels, vae.z_channels)
    count.conv(rows, vae.z_channels, now, 9)
    count.middle(rows, height * width, now)
    for level, multiple in reversed(list(enumerate(vae.ch_mult))):
        for _ in range(vae.num_res_blocks + 1):
            count.resnet(rows, now, multiple * vae.ch)
            now = multiple * vae.ch
        if level:
            rows *= 4
            count.conv(rows, now, now, 9)
    count.conv(rows, now, 3, 9)
    if count.temporal:
        count.conv(rows, 3, 3, 3)
    return count.flops


def clip(spec):
    """The image tower on one image."""
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

    def middle(self, rows, pixels, width):
        self.resnet(rows, width, width)
        self.linear(4 * rows, width, width)
        self.product(2 * rows, pixels, width)
        self.resnet(rows, width, width)
