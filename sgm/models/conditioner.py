"""Conditioning: CLIP token, image latent and scalar embeddings, addressed by name."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from sgm import ops
from sgm.models import clip
from sgm.models.autoencoder import Conv2d, Encoder
from sgm.models.clip import VisionTransformer


class OpenClip(nn.Cell):
    """Nesting only: the published keys read `open_clip.model.visual`."""

    def __init__(self, spec):
        super().__init__()
        self.model = nn.Cell()
        self.model.visual = VisionTransformer(spec)


class Embedder(nn.Cell):
    """Base of what makes one input of the denoiser; `_graph` is its compiled network, once used."""

    def __init__(self):
        super().__init__()
        self._graph = None

    def release(self):
        """Forget the compiled network."""
        self._graph = None


class ClipEmbedder(Embedder):
    """`cond_frames_without_noise`: the image as one CLIP token."""

    def __init__(self, spec):
        super().__init__()
        self.size = spec.image_size
        self.open_clip = OpenClip(spec)

    def construct(self, pixels):
        """Map images (N, 3, S, S) from `sgm.models.clip.preprocess` to tokens (N, 1, D)."""
        return self.open_clip.model.visual(pixels).expand_dims(1)

    def embed(self, image):
        """Return the tokens (N, 1, D) of a numpy array of images (N, 3, H, W) in [-1, 1]."""
        if self._graph is None:
            self._graph = ops.compiled(self.construct)
        return self._graph(Tensor(clip.preprocess(image, self.size)))


class KlEncoder(nn.Cell):
    """The VAE's encoder with its 1x1 convolution."""

    def __init__(self, spec):
        super().__init__()
        self.encoder = Encoder(spec)
        self.quant_conv = Conv2d(2 * spec.z_channels, 2 * spec.z_channels, 1)

    def construct(self, image):
        """Map images (N, 3, H, W) to moments (N, 2 z, h, w)."""
        return self.quant_conv(self.encoder(image))


class LatentEmbedder(Embedder):
    """`cond_frames`: the noised image's latent, *not* multiplied by the scale factor."""

    def __init__(self, spec):
        super().__init__()
        self.channels = spec.z_channels
        self.encoder = KlEncoder(spec)

    def construct(self, image):
        """Map images (N, 3, H, W) to mean and log variance, each (N, z, h, w)."""
        # Split within the graph: an operator after it would spin until the graph is done (see
        # `ops.wait`).
        moments = self.encoder(image)
        return moments[:, :self.channels], moments[:, self.channels:].clip(-30.0, 20.0)

    def moments(self, image):
        """Return mean and log variance, tensors (N, z, h, w), of images (N, 3, H, W) in [-1, 1].

        image: a numpy array.
        """
        if self._graph is None:
            self._graph = ops.compiled(self.construct)
        return self._graph(Tensor(np.ascontiguousarray(image, np.float32)))

    def embed(self, image):
        """Return the mode of the posterior, its mean."""
        return self.moments(image)[0]


class ScalarEmbedder(Embedder):
    """A number per frame, times `scale`, as `dim` sinusoids."""

    def __init__(self, dim, scale=1.0):
        super().__init__()
        self.dim, self.scale = dim, np.float32(scale)

    def embed(self, values):
        """Return (F, dim) of (F,) numbers."""
        scaled = Tensor(np.asarray(values, np.float32) * self.scale)
        return ops.timestep_embedding(scaled, self.dim)


class Conditioner(nn.Cell):
    """The embedders of a `sgm.config.model.ModelSpec`, in the order that the keys number."""

    def __init__(self, spec):
        super().__init__()
        self.names = tuple(spec.condition.embedders)
        widths = spec.vector_widths
        cells = []
        for name in self.names:
            if name == "cond_frames_without_noise":
                cells.append(ClipEmbedder(spec.clip))
            elif name == "cond_frames":
                cells.append(LatentEmbedder(spec.vae))
            else:
                cells.append(ScalarEmbedder(widths[name], spec.vector_scale(name)))
        self.embedders = nn.CellList(cells)

    def embedder(self, name):
        """Return the embedder of an input by name."""
        return self.embedders[self.names.index(name)]

    def vector(self, values, num_frames):
        """Return the vector condition (T, V) of {name: number or (T,) numbers}, in spec order.

        Raises ValueError naming an input that is missing or does not have one value a frame.
        """
        columns = []
        for name, cell in zip(self.names, self.embedders):
            if not isinstance(cell, ScalarEmbedder):
                continue
            if values.get(name) is None:
                raise ValueError(f"condition: {name} is missing; this model is conditioned on it")
            value = np.asarray(values[name], np.float32)
            if value.ndim and value.shape != (num_frames,):
                raise ValueError(f"condition: {name} has shape {value.shape}, expected one number"
                                 f" or ({num_frames},)")
            columns.append(cell.embed(np.broadcast_to(value, (num_frames,))))
        return ms.ops.concat(columns, 1)

    def condition(self, image, cond_noise, cond_aug, num_frames, **scalars):
        """Return (c, uc), dicts of crossattn (T, 1, D), concat (T, z, h, w) and vector (T, V).

        image, cond_noise (1, 3, H, W): numpy arrays. The unconditional side uc has zeros for the
        image and the same scalars.
        """
        noisy = np.asarray(image + np.float32(cond_aug) * cond_noise, np.float32)
        token = self.embedder("cond_frames_without_noise").embed(np.asarray(image, np.float32))
        latent = self.embedder("cond_frames").embed(noisy)
        c = {"crossattn": token.broadcast_to((num_frames,) + token.shape[1:]),
             "concat": latent.broadcast_to((num_frames,) + latent.shape[1:]),
             "vector": self.vector({"cond_aug": cond_aug, **scalars}, num_frames)}
        uc = {"crossattn": ms.ops.zeros_like(c["crossattn"]),
              "concat": ms.ops.zeros_like(c["concat"]), "vector": c["vector"]}
        return c, uc
