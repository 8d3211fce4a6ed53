"""Weights in any form through one door."""
import json

import numpy as np
import pytest
from support.badfiles import torch_zip
from support.converting import SV3D_P, SVD, convert, write_file
from support.goldens import build_checkpoint
from support.torch_pickles import dict_of, tensor_of

from sgm.checkpoints.identify import check_fit
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.opening import open_weights
from sgm.checkpoints.original_keys import used_shapes
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec


def test_one_model_in_four_forms(files, tmp_path):
    """The same spec, with the weights' own decoder, and the same tensors."""
    assert convert(files / "svd.safetensors", tmp_path / "svd.ckpt", "--to", "mindspore") == 0
    weights = build_checkpoint("svd")
    index = dict_of({"state_dict": dict_of({key: tensor_of(i, array) for i, (key, array) in enumerate(weights.items())})})
    (tmp_path / "svd.pt").write_bytes(torch_zip(b"\x80\x02" + index + b".", [array.tobytes() for array in weights.values()]))
    first, spec = open_weights(files / "svd.safetensors", load_spec(SVD))
    assert spec.vae.decoder == "temporal"
    for path in (tmp_path / "svd.ckpt", tmp_path / "svd.pt", files / "svd"):
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


def test_shards_of_a_file(tmp_path):
    """Named by their index, by its folder, or by one of them, which alone is not the model."""
    whole = {key: value for key, value in build_checkpoint("svd").items() if ".conv_" in key}
    names = {key: f"svd-0000{1 + (place % 3 == 0)}-of-00002.safetensors" for place, key in enumerate(whole)}
    for name in set(names.values()):
        write_file(tmp_path / name, {key: whole[key] for key in whole if names[key] == name})
    index = tmp_path / "svd.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    for path in (index, tmp_path):
        store, _ = open_weights(path, load_spec(SVD))
        assert set(store) == set(whole) and all(np.array_equal(store.read(key), whole[key]) for key in whole)
    with pytest.raises(CheckpointError, match="00001-of-00002.safetensors: found one of 2 files of a model"):
        open_weights(tmp_path / "svd-00001-of-00002.safetensors")
    (tmp_path / "svd-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="svd-00002-of-00002.safetensors: cannot be read"):
        open_weights(index)


def test_the_model_of_a_part_is_that_of_its_base(files, tmp_path):
    """A part without a UNet does not show which model it is of."""
    whole = build_checkpoint("sv3d_p")
    part = write_file(tmp_path / "part.safetensors", {key: whole[key] for key in whole if not key.startswith("model.")})
    with pytest.raises(CheckpointError, match="found no UNet, expected that of .*; if it is a part of one of them"):
        open_weights(part)
    with pytest.raises(CheckpointError, match="found a UNet of 32 channels with a vector condition of 1280"):
        open_weights(part, base=open_checkpoint(files / "sv3d_p.safetensors"))


def test_a_part_is_told_how_to_become_whole(tmp_path):
    """What a UNet fine-tune lacks is not another --config."""
    whole = build_checkpoint("sv3d_p")
    part = write_file(tmp_path / "unet.safetensors", {key: whole[key] for key in whole if key.startswith("model.")})
    store, spec = open_weights(part, load_spec(SV3D_P))
    with pytest.raises(CheckpointError, match="210 keys missing: .*; put it together with a file that has them: "
                                              "tools/convert.py unet.safetensors whole.safetensors --to safetensors --base"):
        check_fit(store, used_shapes(spec))
