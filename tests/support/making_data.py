"""Training data for tests: orbit folders, packed sets, videos, and an engine whose encoders can be computed by hand."""
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
from PIL import Image
from support.goldens import PACKAGED

from sgm.config.model_files import load_spec
from sgm.train.data import Clips
from sgm.train.data.orbits import read_orbit
from sgm.views.cameras import Orbit
from sgm.views.media import write_gif
from sgm.views.transforms import write_transforms

SIZE = 32
SMALL = ["num_frames=4", f"height={SIZE}", f"width={SIZE}", "vae.ch_mult=[1,1,1]", "clip.embed_dim=32",
         "unet.context_dim=32", "condition.scalar_dim=8", "condition.angle_dim=8"]


def small_spec(name="sv3d_p", *more):
    """The golden's model at 32 pixels and 4 frames, latents of 8 x 8."""
    return load_spec(PACKAGED / f"tiny_{name}.yaml", [*SMALL, *more])


class FakeEngine:
    """mean = the view averaged over 4 x 4 pixels, with the alphabet's fourth channel 0; log variance = `log_variance`."""

    def __init__(self, spec=None, weights=0.0, log_variance=-2.0):
        self.spec = spec or small_spec()
        self.log_variance, self.encoded, self.shapes = log_variance, 0, set()
        parameter = SimpleNamespace(asnumpy=lambda: np.full(3, weights, np.float32))
        self.conditioner = SimpleNamespace(parameters_dict=lambda: {"weight": parameter})

    def encode_moments(self, frames, chunk=7):
        assert len(frames) <= chunk
        self.encoded += len(frames)
        self.shapes.add(frames.shape)
        mean = mean_of(frames)
        return mean, np.full_like(mean, self.log_variance)


def mean_of(frames):
    """The FakeEngine's latents of frames."""
    count, _, height, width = frames.shape
    pooled = frames.reshape(count, 3, height // 4, 4, width // 4, 4).mean((3, 5))
    return np.concatenate([pooled, np.zeros_like(pooled[:, :1])], 1).astype(np.float32)


def fake_tokens(encoders, frames):
    """In place of `Encoders.tokens`: the CLIP token of a frame is its mean level, 32 times."""
    return np.repeat(frames.mean((1, 2, 3))[:, None, None], 32, 2).astype(np.float32)


def picture(seed, size=SIZE):
    """uint8 (size, size, 4): a disc of a colour of its own, opaque in the middle, transparent outside."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[..., :3] = np.random.RandomState(seed).randint(0, 256, 3)
    rgba[..., 3] = np.where(x * x + y * y < (size * 0.3) ** 2, 255, 0)
    return rgba


def write_orbit(folder, orbit=None, seed=0, size=SIZE):
    """A views folder whose view k is `picture(seed + k)`; -> folder."""
    orbit = orbit or Orbit.static(10, 4)
    folder.mkdir(parents=True)
    for k in range(len(orbit)):
        Image.fromarray(picture(seed + k, size)).save(folder / f"{k:03d}.png")
    write_transforms(folder, orbit, size)
    return folder


def dynamic_orbits(folder, count, views=6):
    """`Clips` of that many orbit folders written into `folder`, each with a dynamic orbit and views of its own."""
    return Clips([read_orbit(write_orbit(folder / "abcdefgh"[k], Orbit.dynamic(k, 10, views), 10 * k), SIZE)
                  for k in range(count)], (SIZE, SIZE))


def write_packed(folder, clips=2, views=4, size=SIZE, seed=0):
    """A packed set of noise on a static orbit; -> folder."""
    folder.mkdir(parents=True)
    orbit, rng = Orbit.static(10, views), np.random.RandomState(seed)
    np.save(folder / "clips.npy", rng.randint(0, 256, (clips, views, size, size, 3)).astype(np.uint8))
    np.save(folder / "azimuths.npy", np.tile(orbit.azimuths_deg.astype(np.float32), (clips, 1)))
    np.save(folder / "elevations.npy", np.tile(orbit.elevations_deg.astype(np.float32), (clips, 1)))
    return folder


def write_film(path, frames, fps=8):
    """uint8 (T, H, W, 3) as the video file that the suffix says; -> path."""
    if path.suffix == ".gif":
        write_gif(path, frames, fps)
    else:
        codec = {".mp4": "libx264", ".webm": "libvpx-vp9"}[path.suffix]
        iio.imwrite(path, frames, plugin="FFMPEG", is_batch=True, fps=fps, codec=codec, quality=9, macro_block_size=2)
    return path


class Counter:
    """A `progress` that counts what passes through it, by description."""

    def __init__(self):
        self.counts = {}

    def __call__(self, items, text):
        for item in items:
            self.counts[text] = self.counts.get(text, 0) + 1
            yield item
