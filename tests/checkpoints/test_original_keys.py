"""The published names by rule, against lists taken from the original code."""
import pytest
from support.goldens import manifest
from support.published import RELEASED, TINY, shapes_of, spec_of

from sgm.checkpoints.original_keys import is_unused, unused_keys, used_shapes
from sgm.config.model_files import load_spec


@pytest.mark.parametrize("name", RELEASED)
def test_published_keys_and_shapes(name):
    """All 2212 to 2446 of them: `used_shapes` and `unused_keys` are the manifest, no key more, no key less."""
    expected, spec = shapes_of(name), spec_of(name)
    used, unused = used_shapes(spec), unused_keys(spec)
    assert sorted([*used, *unused]) == sorted(expected)
    assert used == {key: expected[key] for key in used}
    assert all(map(is_unused, unused))
    # the 1x1 convolution of svd_image_decoder's first stage, which its network has though nothing reads it
    assert [key for key in used if is_unused(key)] == [
        f"first_stage_model.quant_conv.{leaf}" for leaf in ("weight", "bias") if spec.vae.post_quant_conv]


@pytest.mark.parametrize("name", ["svd", "sv3d_u", "sv3d_p"])
def test_small_keys_and_shapes(name):
    expected, spec = {key: tuple(shape) for key, shape in manifest(name).items()}, load_spec(TINY / f"tiny_{name}.yaml")
    assert sorted([*used_shapes(spec), *unused_keys(spec)]) == sorted(expected)
    assert used_shapes(spec) == {key: expected[key] for key in used_shapes(spec)}
