"""DINOv2 and the ViT of TripoSR against transformers, with published names: at the size of their positions, where every
version of transformers agrees (others: tests/feedforward/test_networks.py, by the rule of version 4)."""
import numpy as np
import pytest
from support.feedforward_goldens import fill, tensors, weight

from sgm.audit.golden_weights import uniform
from sgm.config.lrm import EncoderSpec
from sgm.feedforward.layers.encoders import TransformersVit

pytestmark = pytest.mark.parity

# transformers 5 has other names in memory; files keep the published ones.
NAMES = [("attention.attention.query", "attention.q_proj"), ("attention.attention.key", "attention.k_proj"),
         ("attention.attention.value", "attention.v_proj"), ("attention.output.dense", "attention.o_proj")]
VIT_NAMES = [*NAMES, ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"), ("encoder.layer.", "layers.")]
SPEC = EncoderSpec(width=48, layers=3, heads=4, patch_size=8, image_size=32)
COMMON = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, patch_size=8, image_size=32)


def theirs(family):
    import transformers
    if family == "triposr":
        config = transformers.ViTConfig(**COMMON, intermediate_size=192, layer_norm_eps=1e-12)
        return transformers.ViTModel(config, add_pooling_layer=False), VIT_NAMES
    return transformers.Dinov2Model(transformers.Dinov2Config(**COMMON, mlp_ratio=4, layer_norm_eps=1e-6)), NAMES


@pytest.mark.parametrize("family", ["vfusion3d", "triposr"])
def test_last_hidden_state(family):
    import torch
    ours = fill(TransformersVit(SPEC, family, (32, 32)), "parity.")
    model, names = theirs(family)
    state = {}
    for key, parameter in ours.parameters_and_names():
        value = torch.tensor(weight("parity." + key, parameter.shape))
        for old, new in names:
            key = key.replace(old, new)
        state[key] = value
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"embeddings.mask_token"}
    images = uniform("parity.images", (2, 3, 32, 32))
    mean, std = ours.mean.asnumpy(), ours.std.asnumpy()
    with torch.no_grad():
        expected = model.eval()(torch.tensor((images - mean) / std)).last_hidden_state.numpy()
    found = ours(*tensors(images)).asnumpy()
    assert np.abs(found - expected).max() <= 5e-6 * np.abs(expected).max()
