"""Weights in any form through one door."""
import numpy as np
import pytest
from support.converting import SVD, convert, write_file
from support.goldens import build_checkpoint

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.opening import open_weights
from sgm.checkpoints.original_keys import used_shapes
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec


def test_one_model_in_three_forms(files, tmp_path):
    """The same spec, with the weights' own decoder, and the same tensors."""
    assert convert(files / "svd.safetensors", tmp_path / "svd.ckpt", "--to", "mindspore") == 0
    first, spec = open_weights(files / "svd.safetensors", load_spec(SVD))
    assert spec.vae.decoder == "temporal"
    for path in (tmp_path / "svd.ckpt", files / "svd"):
        store, other = open_weights(str(path), load_spec(SVD))
        assert other == spec
        for key in used_shapes(spec):
            np.testing.assert_array_equal(store.read(key), first.read(key))


def test_base_gives_what_a_file_lacks(files, tmp_path):
    whole = build_checkpoint("svd")
    part = {key: value for key, value in whole.items() if not key.startswith("first_stage_model.")}
    path = write_file(tmp_path / "part.safetensors", part)
    base = open_checkpoint(files / "svd.safetensors")
    store, spec = open_weights(path, load_spec(SVD), base)
    assert set(store) == set(base) and spec.vae.decoder == "temporal"
    assert store.origin("first_stage_model.decoder.conv_in.weight")[1] == "from svd.safetensors"


def test_weights_of_another_model(files, tmp_path):
    with pytest.raises(CheckpointError, match="svd.safetensors: .* expected .* for"):
        open_weights(files / "svd.safetensors", load_spec("sv3d_p"))
    with pytest.raises(CheckpointError, match="none.safetensors: cannot be read"):
        open_weights(tmp_path / "none.safetensors")
