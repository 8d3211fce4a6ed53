"""The goldens of the feed-forward networks: their small configurations, weights and tolerances."""
import json
from functools import cache

import numpy as np
from safetensors import safe_open
from support.paths import GOLDEN

from sgm.audit.golden_weights import rand
from sgm.config.lrm import DecoderSpec, EncoderSpec, LrmSpec, TriplaneSpec, VolumeSpec

TOKENS = ("cls_token", "mask_token", "position_embeddings", "pos_embed", "register_tokens", "embeddings")
SPECS = {
    "vfusion3d": LrmSpec(
        image_size=60, encoder=EncoderSpec(width=32, layers=2, heads=2, image_size=70),
        triplane=TriplaneSpec(width=64, layers=2, heads=4, side=4, channels=8, camera_width=48), volume=VolumeSpec(samples=16)),
    "openlrm_kvsame": LrmSpec(
        family="openlrm", image_size=56, encoder=EncoderSpec(width=48, layers=2, heads=3, image_size=70, registers=4),
        triplane=TriplaneSpec(width=48, layers=2, heads=4, side=4, channels=8, camera_width=32), volume=VolumeSpec(samples=16)),
    "openlrm_kvdiff": LrmSpec(
        family="openlrm", image_size=56, encoder=EncoderSpec(width=32, layers=2, heads=2, image_size=70, registers=4),
        triplane=TriplaneSpec(width=48, layers=2, heads=3, side=4, channels=6, camera_width=32), volume=VolumeSpec(samples=20)),
    "triposr": LrmSpec(
        family="triposr", image_size=64, encoder=EncoderSpec(width=32, layers=2, heads=2, patch_size=16, image_size=48),
        triplane=TriplaneSpec(width=64, layers=2, heads=4, side=4, channels=8), decoder=DecoderSpec(width=16, layers=4),
        volume=VolumeSpec(radius=0.87, samples=16, threshold=25.0)),
}
for name, spec in SPECS.items():
    spec.name = name


class Golden:
    """The arrays of a file by name, and what its metadata say."""

    def __init__(self, name):
        with safe_open(GOLDEN / "lrm" / f"{name}.safetensors", "np") as file:
            self.arrays = {key: file.get_tensor(key) for key in file.keys()}
            self.metadata = file.metadata()
        self.floor = json.loads(self.metadata["noise_floor"])

    def __getitem__(self, key):
        return self.arrays[key]

    def __contains__(self, key):
        return key in self.arrays

    def agrees(self, key, found):
        """Assert that the largest error is at most 2e-5 of the peak, or 10 times the noise floor where that is more."""
        found, wanted = (np.asarray(x.asnumpy() if hasattr(x, "asnumpy") else x, np.float64) for x in (found, self[key]))
        found = found.reshape(wanted.shape)
        limit = max(2e-5 * np.abs(wanted).max(), 10 * self.floor.get(key, [0])[0])
        error = np.abs(found - wanted).max()
        assert error <= limit, f"{key}: error {error:.3g}, at most {limit:.3g}"


@cache
def golden_of(name):
    """The `Golden` of tests/golden/lrm/<name>.safetensors."""
    return Golden(name)


def weight(key, shape):
    """The value of a parameter of the goldens, by its prefix and published name."""
    x, leaf = rand(key, shape), key.rpartition(".")[2]
    if leaf in TOKENS:
        return np.float32(0.3) * x
    if leaf in ("lambda1", "gamma") or len(shape) == 1 and leaf == "weight":
        return 1 + np.float32(0.2) * x
    if len(shape) < 2:
        return np.float32(0.1) * x
    gain = 1.6 if "decoder.net." in key or "decoder.layers." in key else 1.0
    return np.float32(gain) * x / np.sqrt(np.float32(np.prod(shape[1:])))


def fill(cell, prefix):
    """Give every parameter of a cell its golden weight; -> cell."""
    from mindspore import Tensor
    for name, parameter in cell.parameters_and_names():
        parameter.set_data(Tensor(weight(prefix + name, parameter.shape)))
    return cell


@cache
def network(name):
    """The small network of a golden with its weights."""
    from sgm.feedforward.networks import build_network
    return fill(build_network(SPECS[name]), golden_of(f"{name}_render").metadata["weights_prefix"])


def tensors(*arrays):
    """float32 Tensors of arrays."""
    from mindspore import Tensor
    return [Tensor(np.ascontiguousarray(array, np.float32)) for array in arrays]
