"""Pictures as the networks get them, against the public PyTorch code, step by step."""
from dataclasses import replace

import numpy as np
import pytest
from support.feedforward_goldens import SPECS, golden_of

from sgm.feedforward import preparation
from sgm.feedforward.preparation import network_image
from sgm.views.images import ImageError


@pytest.mark.parametrize("case", ["big", "wide"])
def test_vfusion3d(case):
    g = golden_of("vfusion3d_preprocess")
    rgba = g[f"in/{case}.rgba_u8"]
    square = preparation.recentered(rgba / np.float32(255), max(rgba.shape[:2]), preparation.box_of(rgba, 10))
    assert np.array_equal((square * 255).astype(np.uint8), g[f"out/{case}.recentered_u8"])
    g.agrees(f"out/{case}.image", network_image(rgba, SPECS["vfusion3d"]))


@pytest.mark.parametrize("case", ["big", "small"])
def test_openlrm(case, monkeypatch):
    """Its script to place an object (here on 64 pixels), and its input of a picture as it is."""
    g = golden_of("openlrm_preprocess")
    rgba, loaded = g[f"in/{case}.rgba_u8"], g[f"act/{case}.loaded_bgra_u8"]
    assert np.array_equal(preparation.reduced(rgba[..., [2, 1, 0, 3]], 128), loaded)
    square = preparation.recentered(loaded, 64, preparation.box_of(loaded))
    assert np.array_equal(square, g[f"out/{case}.recentered_bgra_u8"])
    monkeypatch.setattr(preparation, "recentered", lambda rgba, side, box: rgba)
    monkeypatch.setattr(preparation, "reduced", lambda rgba, longest: rgba)
    g.agrees(f"out/{case}.image", network_image(rgba, SPECS["openlrm_kvdiff"]))


@pytest.mark.parametrize("case", ["big", "small"])
def test_triposr(case):
    g = golden_of("triposr_preprocess")
    assert np.array_equal(preparation.on_grey(g[f"in/{case}.rgba_u8"]), g[f"out/{case}.on_grey_u8"])
    image = network_image(g[f"in/{case}.rgba_u8"], SPECS["triposr"])
    g.agrees(f"out/{case}.rgb_cond", image.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("family", ["vfusion3d", "openlrm", "triposr"])
def test_nothing_to_see(family):
    spec = replace(SPECS["triposr"], family=family)
    for rows, columns in ((0, 0), (1, 9))[:1 if family == "openlrm" else 2]:    # openlrm's script enlarges first
        rgba = np.zeros((20, 20, 4), np.uint8)
        rgba[5:5 + rows, 5:5 + columns] = 255
        with pytest.raises(ImageError, match="less than two rows or columns"):
            network_image(rgba, spec)
