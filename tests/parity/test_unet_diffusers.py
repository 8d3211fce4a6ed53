"""The video UNet against diffusers' UNetSpatioTemporalConditionModel."""
import pytest
from sides import Side
from twins import FULL, SMALL, Case, draw_weights, ours, theirs

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("image_only", [False, True], ids=["moving", "partly stills"])
def test_two_videos(both, agree, image_only):
    """Two videos of different noise level, context and scalars; height and width differ."""
    found, expected = both(Case("unet", SMALL, frames=5, height=8, width=12, videos=2, image_only=image_only))
    # Measured 1.7e-6; with an epsilon of 1e-6 in the residual blocks' norms, as diffusers ships them, 1.4e-5.
    agree("parity unet" + image_only * ", partly stills", found["evaluate"], expected["evaluate"], 5e-6)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_full_width(tmp_path, agree):
    """1.52 billion parameters, 21 frames, 24 x 24 latents; one side after the other, each in a process of its own."""
    case = Case("unet", FULL, frames=21, height=24, width=24)
    weights = tmp_path / "weights.safetensors"
    outputs = []
    try:
        with Side("weights", draw_weights, case, weights):
            pass
        for name, build in (("ours", ours), ("theirs", theirs)):
            with Side(name, build, case, weights) as side:
                outputs.append(side.run("evaluate").output)
    finally:
        weights.unlink(missing_ok=True)     # 6 GB
    agree("parity unet, full width", *outputs, 5e-5)
