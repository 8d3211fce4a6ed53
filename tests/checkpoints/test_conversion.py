"""tools/convert.py: every way there and back, surgery, what the report says."""
import csv
import filecmp
import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.converting import LABEL, SV3D_P, SVD, convert, manifest, sparse, tool, write_file
from support.goldens import GOLDEN, build_checkpoint
from support.paths import ROOT

from sgm.checkpoints import conversion
from sgm.checkpoints.diffusers import writer
from sgm.checkpoints.diffusers.names import STEMS
from sgm.checkpoints.diffusers.reader import open_folder
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.original_keys import is_unused, used_shapes
from sgm.config.model_files import load_spec

TINY = ROOT / "assets" / "sv3d_tiny.safetensors"


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- there and back --------------------------------------------------------------------------------------------

def test_original_to_mindspore_and_back_is_the_same_file(files, tmp_path, capsys):
    """Unused keys and metadata too."""
    assert convert(files / "svd.safetensors", tmp_path / "a.ckpt", "--to", "mindspore", "--verify") == 0
    assert convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors", "--from", "mindspore", "--to", "original") == 0
    assert filecmp.cmp(files / "svd.safetensors", tmp_path / "b.safetensors", shallow=False)
    first, second = capsys.readouterr().out.splitlines()
    assert "svd.safetensors (safetensors, tiny_svd) -> " in first and "1152 tensors, 0.02 GB in" in first
    assert first.endswith("compared with the source") and not second.endswith("compared with the source")
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "b.safetensors"]


def test_by_way_of_a_diffusers_folder(files, tmp_path, capsys):
    """With --base the same file again; without, what a network needs, and the rest is said to be absent."""
    source = files / "svd.safetensors"
    assert convert(files / "svd", tmp_path / "a.safetensors", "--to", "original", "--base", source, "--verify") == 0
    assert "1152 tensors" in capsys.readouterr().out
    ours, theirs = load_file(tmp_path / "a.safetensors"), load_file(source)
    assert set(ours) == set(theirs) and all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert convert(files / "svd", tmp_path / "b.safetensors", "--to", "safetensors") == 0
    assert "184 published keys are not in it (conditioner.embedders.0.open_clip.model.ln" in capsys.readouterr().out
    ours = load_file(tmp_path / "b.safetensors")
    assert set(ours) == set(used_shapes(load_spec(SVD))) and all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_a_file_takes_from_the_base_what_it_lacks(files, tmp_path, capsys):
    """As train.py writes them: without the keys that nothing uses, or without a UNet."""
    whole = load_file(files / "svd.safetensors")
    part = write_file(tmp_path / "a.safetensors", {key: array for key, array in whole.items() if key.startswith("model.")})
    args = (part, tmp_path / "b.safetensors", "--to", "original", "--base", files / "svd.safetensors", "--report",
            tmp_path / "r.csv")
    assert convert(*args) == 0
    assert f"{len(whole) - len(load_file(part))} keys from " in capsys.readouterr().out
    ours = load_file(tmp_path / "b.safetensors")
    assert set(ours) == set(whole) and all(np.array_equal(ours[key], whole[key]) for key in whole)
    done = {row["target"]: row["done"] for row in rows_of(tmp_path / "r.csv")}
    assert done[LABEL] == "copied" and done["first_stage_model.decoder.conv_in.bias"] == "from svd.safetensors"


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_sv3d_in_diffusers_form(dtype, files, tmp_path, capsys):
    """The image decoder is an AutoencoderKL; stock diffusers has no pipeline for it, which is said."""
    source, config = tmp_path / "source.safetensors", SV3D_P
    assert convert(files / "sv3d_p.safetensors", source, "--to", "safetensors", "--dtype", dtype, config=config) == 0
    assert convert(source, tmp_path / "a", "--to", "diffusers", "--verify", config=config) == 0
    assert "diffusers has no pipeline that runs it" in capsys.readouterr().out
    assert json.loads((tmp_path / "a/vae/config.json").read_text())["_class_name"] == "AutoencoderKL"
    assert convert(tmp_path / "a", tmp_path / "b.ckpt", "--to", "mindspore", "--base", source, config=config) == 0
    ours, theirs = open_checkpoint(tmp_path / "b.ckpt"), open_checkpoint(source)
    assert set(ours) == set(theirs) and all(np.array_equal(ours.raw(key), theirs.raw(key)) for key in theirs)


def test_sv3d_is_said_in_the_help(capsys):
    with pytest.raises(SystemExit):
        tool.run(["--help"])
    assert "diffusers has no pipeline that runs SV3D" in " ".join(capsys.readouterr().out.split())


def test_the_image_decoder_of_svd(files, tmp_path):
    """svd_image_decoder: a first stage with 1x1 convolutions; the one that nothing reads comes back as the encoder's."""
    arrays = build_checkpoint("svd")
    arrays = {key: array for key, array in arrays.items()
              if not (key.startswith("first_stage_model.") and ("time_" in key or "mix_factor" in key))}
    for name, size in (("quant_conv", 8), ("post_quant_conv", 4)):
        arrays[f"first_stage_model.{name}.weight"] = np.full((size, size, 1, 1), 7, np.float32)
        arrays[f"first_stage_model.{name}.bias"] = np.full(size, 7, np.float32)
    write_file(tmp_path / "a.safetensors", arrays)
    assert convert(tmp_path / "a.safetensors", tmp_path / "b", "--to", "diffusers", "--verify") == 0
    assert json.loads((tmp_path / "b/vae/config.json").read_text())["use_post_quant_conv"]
    assert convert(tmp_path / "b", tmp_path / "c.safetensors", "--to", "original") == 0
    ours = load_file(tmp_path / "c.safetensors")
    same = {key for key in ours if np.array_equal(ours[key], arrays[key])}
    assert set(ours) - same == {"first_stage_model.quant_conv.weight", "first_stage_model.quant_conv.bias"}


def test_shards(files, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "MAX_SHARD", 3 << 20)
    assert convert(files / "svd.safetensors", tmp_path / "svd", "--to", "diffusers", "--verify") == 0
    unet = tmp_path / "svd/unet"
    index = json.loads((unet / "diffusion_pytorch_model.safetensors.index.json").read_text())
    names = sorted(path.name for path in unet.glob("*.safetensors"))
    assert len(names) > 3 and names[0] == f"diffusion_pytorch_model-00001-of-{len(names):05}.safetensors"
    assert all((unet / name).stat().st_size < 3.3 * 2 ** 20 for name in names)
    assert sorted(set(index["weight_map"].values())) == names
    whole, parts = load_file(files / "svd/unet/diffusion_pytorch_model.safetensors"), {}
    for name in names:
        parts.update(load_file(unet / name))
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in parts.values())
    assert set(parts) == set(whole) == set(index["weight_map"])
    assert all(np.array_equal(parts[key], whole[key]) for key in whole)
    # The same as a variant, which diffusers names thus, and the full precision gone.
    for name in names:
        (unet / name).rename(unet / name.replace("model-", "model.fp16-"))
    index["weight_map"] = {key: name.replace("model-", "model.fp16-") for key, name in index["weight_map"].items()}
    (unet / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    (unet / "diffusion_pytorch_model.safetensors.index.json").unlink()
    assert convert(tmp_path / "svd", tmp_path / "b.safetensors", "--to", "original") == 0


def test_variants(folder, tmp_path):
    """*.fp16.safetensors are read where there is nothing else; the full precision goes first."""
    for part, stem in STEMS.items():
        path = folder / part / f"{stem}.safetensors"
        arrays = {key: array.astype(np.float16) for key, array in load_file(path).items()}
        write_file(folder / part / f"{stem}.fp16.safetensors", arrays)
        if part != "vae":
            path.unlink()
    view, _ = open_folder(folder, load_spec(SVD))
    assert {view.dtype(key) for key in view if key.startswith(("model.", "conditioner.embedders.0."))} == {"F16"}
    assert {view.dtype(key) for key in view if key.startswith("first_stage_model.")} == {"F32"}
    assert convert(folder, tmp_path / "a.safetensors", "--to", "original", "--dtype", "fp32", "--verify") == 0
    assert {array.dtype for array in load_file(tmp_path / "a.safetensors").values()} == {np.dtype(np.float32)}


def test_a_fine_tuned_unet_alone(folder, files, tmp_path, capsys):
    """What SVD fine-tunes are published as: unet only; the rest is the base's."""
    for part in ("vae", "image_encoder"):
        shutil.rmtree(folder / part)
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    arrays = {key: array + 1 for key, array in load_file(path).items()}
    write_file(path, arrays)
    source = files / "svd.safetensors"
    assert convert(folder, tmp_path / "a.safetensors", "--to", "original", "--base", source, "--verify") == 0
    assert f"keys from {source}" in capsys.readouterr().out
    ours, theirs = load_file(tmp_path / "a.safetensors"), load_file(source)
    assert set(ours) == set(theirs)
    for key in theirs:
        assert np.array_equal(ours[key], theirs[key] + (1 if key.startswith("model.") else 0)), key
    assert convert(folder, tmp_path / "b.safetensors", "--to", "original") == 2
    assert "keys missing: image_encoder: vision_model." in capsys.readouterr().err


def test_old_buffers_are_passed_over(folder, tmp_path):
    path = folder / "image_encoder/model.safetensors"
    write_file(path, {**load_file(path), "vision_model.embeddings.position_ids": np.arange(65)[None]})
    assert convert(folder, tmp_path / "a.ckpt", "--to", "mindspore") == 0


@pytest.mark.parametrize("dtype, kind", [("fp16", np.float16), ("bf16", None)])
def test_precisions(dtype, kind, files, tmp_path, capsys):
    source, target = files / "svd.safetensors", tmp_path / "a.ckpt"
    assert convert(source, target, "--to", "mindspore", "--dtype", dtype, "--verify", "--report", tmp_path / "r.csv") == 0
    ours, theirs = open_checkpoint(target), load_file(source)
    for key, array in theirs.items():
        assert ours.dtype(key) == dtype.upper().replace("P", "")
        expected = array.astype(kind) if kind else array
        assert np.allclose(ours.read(key), expected, rtol=0 if kind else 2 ** -8, atol=0), key
    assert {row["dtype"] for row in rows_of(tmp_path / "r.csv")} == {f"F32 to {dtype.upper().replace('P', '')}"}


def test_models_are_recognised(tmp_path, capsys):
    assert convert(TINY, tmp_path / "a.ckpt", "--to", "mindspore", config=None) == 0
    assert convert(tmp_path / "a.ckpt", tmp_path / "a.safetensors", "--to", "safetensors", config=None) == 0
    assert "a.ckpt (ckpt, sv3d_tiny) -> " in (said := capsys.readouterr().out)
    assert len(said.splitlines()) == 2          # nothing that reads like a defect: no key is missed that nothing uses
    assert filecmp.cmp(TINY, tmp_path / "a.safetensors", shallow=False)


def test_the_embedded_model_in_diffusers_form(tmp_path, capsys):
    """Its norms have 8 groups, diffusers' UNet has 32: written down, read back exactly, and said."""
    assert convert(TINY, tmp_path / "a", "--to", "diffusers", "--verify", config=None) == 0
    assert "its norms have 8 groups, which this program reads" in capsys.readouterr().out
    path = tmp_path / "a/unet/config.json"
    config = json.loads(path.read_text())
    assert config["norm_num_groups"] == 8
    assert convert(tmp_path / "a", tmp_path / "b.safetensors", "--to", "safetensors", config=None) == 0
    ours, theirs = load_file(tmp_path / "b.safetensors"), load_file(TINY)
    assert set(ours) == set(theirs) and all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    del config["norm_num_groups"]               # as diffusers would write it: another network with the same shapes
    path.write_text(json.dumps(config))
    capsys.readouterr()
    assert convert(tmp_path / "a", tmp_path / "c.safetensors", "--to", "safetensors", config=None) == 2
    assert "unet/config.json: norm_num_groups: found 32, expected 8 for sv3d_tiny" in capsys.readouterr().err


# --- the report ------------------------------------------------------------------------------------------------

def test_a_row_for_every_key(files, tmp_path):
    report = tmp_path / "r.csv"
    assert convert(files / "svd.safetensors", tmp_path / "svd", "--to", "diffusers", "--report", report) == 0
    rows = {row["target"]: row for row in rows_of(report) if row["target"]}
    written = {f"{part}/{key}" for part, stem in STEMS.items()
               for key in load_file(tmp_path / "svd" / part / f"{stem}.safetensors")}
    assert set(rows) == written
    clip, source = "conditioner.embedders.0.open_clip.model.visual.", "image_encoder/vision_model.encoder.layers.1.self_attn."
    assert rows[source + "k_proj.bias"] == {
        "source": clip + "transformer.resblocks.1.attn.in_proj_bias", "target": source + "k_proj.bias", "shape": "160",
        "dtype": "F32", "done": "third of the joint projection"}
    assert rows["image_encoder/visual_projection.weight"]["done"] == "transposed"
    assert rows["vae/decoder.mid_block.attentions.0.to_q.weight"]["shape"] == "64x64"
    assert rows["unet/conv_in.weight"]["done"] == "copied"
    left = [row for row in rows_of(report) if not row["target"]]
    assert len(left) == 184 and all(is_unused(row["source"]) and "left behind" in row["done"] for row in left)


def test_the_report_of_what_came_from_where(files, tmp_path):
    target, report = tmp_path / "a.safetensors", tmp_path / "r.csv"
    assert convert(files / "svd", target, "--to", "original", "--base", files / "svd.safetensors", "--report", report) == 0
    done = {row["target"]: row for row in rows_of(report)}
    key = "conditioner.embedders.0.open_clip.model.visual.transformer.resblocks.0.attn.in_proj_weight"
    attention = "vision_model.encoder.layers.0.self_attn."
    assert done[key]["source"] == " + ".join(f"{attention}{name}_proj.weight" for name in "qkv")
    assert done[key]["done"] == "joint projection" and set(done) == set(load_file(target))
    assert done["first_stage_model.decoder.mid.attn_1.q.weight"]["done"] == "matrix as a 1x1 kernel"
    assert done["first_stage_model.encoder.conv_in.weight"]["done"] == "from svd.safetensors"
    assert convert(files / "svd", tmp_path / "b.safetensors", "--to", "original", "--report", report) == 0
    absent = [row for row in rows_of(report) if not row["source"]]
    assert len(absent) == 184 and all(row["done"] == "absent: nothing uses it" for row in absent)


# --- surgery (what the network computes then: test_svd_to_sv3d.py) ----------------------------------------------------

@pytest.mark.parametrize("model", ["sv3d_p", "sv3d_u"])
def test_surgery(model, files, tmp_path, capsys):
    target, report = tmp_path / "a.safetensors", tmp_path / "r.csv"
    args = ("--surgery", model, "--verify", "--report", report)
    assert convert(files / "svd.safetensors", target, "--to", "safetensors", *args) == 0
    assert "surgery: cond_aug columns kept" in capsys.readouterr().out
    ours, theirs = load_file(target), load_file(files / "svd.safetensors")
    assert np.array_equal(ours[LABEL][:, :256], theirs[LABEL][:, 512:])
    assert ours[LABEL].shape == (128, {"sv3d_p": 1280, "sv3d_u": 256}[model]) and not ours[LABEL][:, 256:].any()
    rest = {key.replace("embedders.3.", "embedders.1."): array for key, array in theirs.items() if key != LABEL}
    assert set(ours) == {*rest, LABEL} and all(np.array_equal(ours[key], rest[key]) for key in rest)
    rows = {row["target"]: row["done"] for row in rows_of(report)}
    angles = "polars_rad columns zero, azimuths_rad columns zero, " * (model == "sv3d_p")
    assert rows[LABEL] == f"cond_aug columns kept, {angles}fps_id columns dropped, motion_bucket_id columns dropped"
    assert rows["conditioner.embedders.1.encoder.quant_conv.bias"] == "renumbered from conditioner.embedders.3"
    assert rows["first_stage_model.decoder.conv_out.time_mix_conv.weight"] == "temporal decoder kept"
    assert rows["conditioner.embedders.0.open_clip.model.visual.proj"] == "copied"


def test_surgery_on_a_diffusers_folder(files, tmp_path):
    assert convert(files / "svd", tmp_path / "a", "--to", "diffusers", "--surgery", "sv3d_p", "--verify") == 0
    assert load_file(tmp_path / "a/unet/diffusion_pytorch_model.safetensors")["add_embedding.linear_1.weight"].shape == (
        128, 1280)


# --- the published names, at full size: sparse files ---------------------------------------------------------------------

def test_the_published_diffusers_folder(tmp_path, monkeypatch):
    """All its names and shapes, to all the published names and shapes, and back: what the reference then loads."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 10 ** 11))
    folder = tmp_path / "svd"
    folder.mkdir()
    names = {part: {name: shape for name, (_, _, shape) in found.items()}
             for part, found in manifest("diffusers_svd").items()}
    for part, stem in STEMS.items():
        sparse(folder / part / f"{stem}.safetensors", names[part])
        shutil.copy(GOLDEN / f"manifests/diffusers_svd_{part}.config.json", folder / part / "config.json")
    base = sparse(tmp_path / "base.safetensors", manifest("svd"))
    made = conversion.plan(folder, tmp_path / "a.safetensors", "original", base=base)
    assert {key: list(made.store.shape(key)) for key in made.store} == manifest("svd")
    made = conversion.plan(base, tmp_path / "a", "diffusers")
    assert {part: {key: list(view.shape(key)) for key in view} for part, view in made.parts.items()} == names
    assert {part: len(view) for part, view in made.parts.items()} == {"unet": 1428, "vae": 374, "image_encoder": 520}
    made = conversion.plan(folder, tmp_path / "a.ckpt", "mindspore", surgery="sv3d_p")
    assert {key: list(made.store.shape(key)) for key in made.store if "decoder" not in key} == {
        key: shape for key, shape in manifest("sv3d_p").items() if not is_unused(key) and "decoder" not in key}
