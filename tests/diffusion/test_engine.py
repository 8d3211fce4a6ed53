"""The engine: the published names, building without memory, encoding, weights held one stage at a time."""
import json
import re
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file
from support.goldens import GOLDEN, PACKAGED, build_checkpoint
from support.paths import ROOT
from support.training import POSED

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.config.model_files import load_spec
from sgm.diffusion.engine import Engine

RELEASED = {"svd": [], "svd_xt": [], "sv3d_u": [], "sv3d_p": [],
            "svd_image_decoder": ["vae.decoder=image", "vae.post_quant_conv=true"]}

# Published keys that nothing reads: remnants of CLIP's text tower, the decoder of the conditioner's autoencoder, the
# first stage's encoder (the conditioner's is the one that is used).
TEXT_TOWER = ("ln_final.weight", "ln_final.bias", "logit_scale", "positional_embedding", "text_projection",
              "token_embedding.weight")
UNUSED = re.compile(rf"conditioner\.embedders\.0\.open_clip\.model\.({'|'.join(map(re.escape, TEXT_TOWER))})$"
                    r"|conditioner\.embedders\.\d\.encoder\.(decoder|post_quant_conv)\."
                    r"|first_stage_model\.encoder\.")

BUILD = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from sgm.diffusion.engine import Engine
from sgm.config.model_files import load_spec

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

result, built, before = {}, {}, resident()
for name, overrides in json.loads(sys.argv[2]).items():
    spec = load_spec(name.replace("_image_decoder", ""), overrides)
    networks = repr((spec.unet, spec.vae, spec.clip, spec.condition))     # svd_xt has those of svd
    if networks not in built:
        engine = Engine(spec)
        if not built:   # later ones may get memory that an earlier one has given back
            megabytes = resident() - before
        built[networks] = {key: list(parameter.shape) for key, parameter in engine.parameters_dict().items()}
    result[name] = built[networks]
print(json.dumps([result, megabytes]))
"""


@pytest.fixture(scope="module")
def full_size():
    """{model: its keys with shapes}, and the megabytes that building the first one took, from a process of its own."""
    result = subprocess.run([sys.executable, "-c", BUILD, str(ROOT), json.dumps(RELEASED)], capture_output=True,
                            text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", RELEASED)
def test_published_names_and_shapes(name, full_size):
    """Every published key that is used has a parameter of its shape, and there is no other parameter."""
    published = json.loads((GOLDEN / "manifests" / f"{name}.json").read_text())
    used = {key: shape for key, shape in published.items() if not UNUSED.match(key)}
    ours = full_size[0][name]
    assert set(ours) == set(used)
    assert {key: (ours[key], used[key]) for key in used if ours[key] != used[key]} == {}


def test_building_takes_no_memory(full_size):
    """svd's 9.5 GB of weights come from the file, once they are needed."""
    assert full_size[1] < 300


def test_encode(golden, tiny_engine, agree):
    """The mode of the conditioner's encoder, times the scale factor; chunks make no difference."""
    g, engine = golden("vae_klmodeonly"), tiny_engine("sv3d_p")
    wanted = g["out/z_mode"] * np.float32(0.18215)
    agree("vae_klmodeonly z_mode, scaled by the engine", engine.encode(g["in/img"]), wanted)
    agree("vae_klmodeonly z_mode, scaled by the engine", engine.encode(Tensor(g["in/img"]), chunk=1), wanted)
    mean, log_variance = engine.encode_moments(g["in/img"])
    agree("vae_klmodeonly moments, from the engine", np.concatenate([mean, log_variance], 1), g["out/moments"])


def test_weights_of_one_stage_at_a_time(golden, tiny_spec, agree, tmp_path):
    """`weights_loaded` reads a part from the file and gives it back; a second image finds the same weights again."""
    save_file(build_checkpoint("sv3d_u"), tmp_path / "weights.safetensors")
    engine = Engine(tiny_spec("sv3d_u"), open_checkpoint(tmp_path / "weights.safetensors"))
    g = golden("cond_sv3d_u")
    for _ in range(2):
        with engine.weights_loaded("conditioner"):
            c, _ = engine.condition(g["in/image"], g["in/cond_noise"])
            for key in c:
                agree(f"cond_sv3d_u c/{key}, staged", c[key], g[f"out/c/{key}"])
        assert not any(parameter.asnumpy().any() for parameter in engine.conditioner.get_parameters())


def test_released_graphs_take_new_weights(golden, filled, agree, relative_error):
    """A graph keeps the weights it first ran with; `release` makes it take those that the parameters have now."""
    engine = filled(Engine(load_spec(PACKAGED / "tiny_sv3d_p.yaml", POSED)))
    image = golden("vae_klmodeonly")["in/img"][:1, :, :32, :32]
    before = engine.encode_moments(image)[0]
    for parameter in engine.conditioner.get_parameters():
        parameter.set_data(Tensor(0.5 * parameter.asnumpy()))
    engine.release()
    halved = engine.encode_moments(image)[0]
    assert relative_error(halved, before) > 0.1
    filled(engine)
    engine.release()
    agree("the encoder's mean, after new weights", engine.encode_moments(image)[0], before)


def test_half_precision(golden, tiny_spec, filled, relative_error, pynative):
    """The UNet in float16, everything around it in float32."""
    g = golden("sample_sv3d_p")
    engine = filled(Engine(tiny_spec("sv3d_p"), dtype=ms.float16))
    with engine.weights_loaded("model"):
        assert {parameter.dtype for parameter in engine.model.get_parameters()} == {ms.float16}
        conditions = [{key: g[f"in/{side}/{key}"] for key in ("crossattn", "concat", "vector")} for side in ("c", "uc")]
        x, sigma = Tensor(g["trace/x.5"]), g["trace/sigma.5"][0]
        estimate = engine.denoiser(*conditions, np.ones(5))(x, sigma)
    assert estimate.dtype == ms.float32
    error = relative_error(estimate, g["trace/denoised_uncond_cond.5"][5:])
    assert 1e-5 < error < 1e-2
