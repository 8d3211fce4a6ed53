"""Keys and shapes of the released models, as they are published."""
import json
from dataclasses import replace

from support.goldens import PACKAGED
from support.paths import GOLDEN

from sgm.config.model_files import load_spec

MANIFESTS = GOLDEN / "manifests"
TINY = PACKAGED
RELEASED = ["svd", "svd_xt", "sv3d_u", "sv3d_p", "svd_image_decoder"]


def shapes_of(name):
    return {key: tuple(shape) for key, shape in json.loads((MANIFESTS / f"{name}.json").read_text()).items()}


def spec_of(name):
    if name != "svd_image_decoder":
        return load_spec(name)
    spec = load_spec("svd")
    return replace(spec, vae=replace(spec.vae, decoder="image", post_quant_conv=True))
