"""tools/convert.py: what it refuses, what is left when it is stopped, what --verify finds, its memory."""
import filecmp
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.converting import LABEL, SVD, changed, convert, manifest, sparse, write_file
from support.goldens import build_checkpoint
from support.paths import ROOT

from sgm.checkpoints import conversion, dtypes, mindspore_format, safetensors_format
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import slices

# --- what is refused: one line, exit code 2, nothing written -----------------------------------------------------------

def tree(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def refused(capsys, tmp_path, *args, **options):
    """The line that a conversion ends with; nothing may have changed on disk."""
    before = tree(tmp_path)
    capsys.readouterr()
    assert convert(*args, **options) == 2
    assert tree(tmp_path) == before
    said = capsys.readouterr().err
    line = said.splitlines()[-1]                # there may be a progress bar before it
    assert line.startswith("convert.py: ") and said.endswith(line + "\n") and "Traceback" not in said
    return line


UNET = "model__diffusion_model__"


@pytest.mark.parametrize("changes, expected", [
    ({UNET + "out__2__bias": None}, "1 keys missing: model.diffusion_model.out.2.bias; pass the model's --config, or --base"),
    ({UNET + "out__2__bias": np.zeros(5, np.float32)}, "1 misshapen: model.diffusion_model.out.2.bias (found (5,), expected"),
    ({UNET + "out__2__bias": np.zeros(4, np.int32)}, "(found I32, expected a floating type)"),
    ({UNET + "more": np.zeros(4, np.float32)}, "1 left over: model.diffusion_model.more; "),
    ({UNET + "label_emb__0__0__weight": np.zeros((128, 256), np.float32)}, "found 256 columns, expected 768 for tiny_svd"),
    ({f"old/{LABEL}": np.zeros(4, np.float32)}, f"1 left over: old/{LABEL}; what is left over has no place")])
@pytest.mark.parametrize("kind, target", [("mindspore", "b.ckpt"), ("diffusers", "b")])
def test_what_does_not_fit(changes, expected, kind, target, tmp_path, capsys):
    source = write_file(tmp_path / "a.safetensors", changed(build_checkpoint("svd"), **changes))
    assert expected in refused(capsys, tmp_path, source, tmp_path / target, "--to", kind)


def test_another_model(files, tmp_path, capsys):
    target = tmp_path / "a.ckpt"
    assert "found 1280 columns, expected 768 for tiny_svd; it looks like sv3d_p of other widths: pass its --config" in refused(
        capsys, tmp_path, files / "sv3d_p.safetensors", target, "--to", "mindspore")
    assert "found a UNet of 32 channels with a vector condition of 768, expected that of sv3d_p, " in refused(
        capsys, tmp_path, files / "svd.safetensors", target, "--to", "mindspore", config=None)
    assert "nope: no such file or name" in refused(
        capsys, tmp_path, files / "svd.safetensors", target, "--to", "mindspore", config="nope")
    assert "found the names of a part of a diffusers folder" in refused(
        capsys, tmp_path, files / "svd/unet/diffusion_pytorch_model.safetensors", target, "--to", "mindspore", config=None)


@pytest.mark.parametrize("kind, args, expected", [
    ("mindspore", ["svd.safetensors", "a.safetensors"], "found the ending .safetensors, expected .ckpt for --to mindspore"),
    ("original", ["svd.safetensors", "a"], "a: found the ending of a folder, expected .safetensors for --to original"),
    ("diffusers", ["svd.safetensors", "a.ckpt"], "found the name of a file, expected that of a folder for --to diffusers"),
    ("original", ["svd.safetensors", "sv3d_p.safetensors/x.safetensors"], "sv3d_p.safetensors, expected one to write into"),
    ("original", ["svd.safetensors", "none/x.safetensors"], "found no folder"),
    ("original", ["svd.safetensors", "folder.safetensors"], "found a folder, expected a file for --to original"),
    ("diffusers", ["svd.safetensors", "full"], "full: exists, expected a new folder; remove it or give another path"),
    ("diffusers", ["svd.safetensors", "file"], "file: exists, expected a new folder"),
    ("original", ["svd.safetensors", "svd.safetensors"], "found the path of what is read, expected another"),
    ("original", ["svd.safetensors", "link.safetensors"], "found the path of what is read, expected another"),
    ("original", ["svd", "base.safetensors", "--base", "base.safetensors"], "found the path of what is read"),
    ("diffusers", ["svd", "svd"], "found the path of what is read"),
    ("original", ["none.safetensors", "a.safetensors"], "none.safetensors: cannot be read (No such file or directory)"),
    ("original", ["svd", "a.safetensors", "--from", "original"], "found a folder, expected a file for --from original"),
    ("original", ["svd.safetensors", "a.safetensors", "--from", "diffusers"], "expected a diffusers folder for --from"),
    ("original", ["svd.ckpt", "a.safetensors", "--from", "original"], "found a ckpt file, expected a .safetensors file"),
    ("original", ["svd.safetensors", "a.safetensors", "--report", "r.txt"], "found the ending .txt, expected .csv"),
    ("original", ["svd.safetensors", "a.safetensors", "--report", "none/r.csv"], "found no folder"),
    ("original", ["svd.safetensors", "a.safetensors", "--base", "none"], "none: cannot be read"),
    ("original", ["folder.safetensors", "a.safetensors"], "found none of unet, vae, image_encoder in it"),
    ("original", ["pickle.ckpt", "a.safetensors"], "found a pickle (of PyTorch before 1.6, or another program), which can run code"),
    ("original", ["cut.safetensors", "a.safetensors"], "the file is cut off")])
def test_paths_and_kinds(kind, args, expected, files, tmp_path, capsys, monkeypatch):
    for name in ("svd", "svd.safetensors", "sv3d_p.safetensors"):
        os.symlink(files / name, tmp_path / name)
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "pickle.ckpt").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "cut.safetensors").write_bytes((files / "svd.safetensors").read_bytes()[:500_000])
    os.symlink("svd.safetensors", tmp_path / "link.safetensors")
    os.symlink("svd.safetensors", tmp_path / "base.safetensors")
    if "svd.ckpt" in args:
        assert convert(tmp_path / "svd.safetensors", tmp_path / "svd.ckpt", "--to", "mindspore") == 0
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, tmp_path, *args, "--to", kind)


def test_an_earlier_file_is_replaced_only_by_a_whole_one(files, tmp_path, capsys, monkeypatch):
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"earlier")
    arrays = changed(build_checkpoint("svd"), **{UNET + "out__2__bias": np.full(4, 1e6, np.float32)})
    source = write_file(tmp_path / "large.safetensors", arrays)
    assert "large.safetensors: model.diffusion_model.out.2.bias: found values beyond the range of F16" in refused(
        capsys, tmp_path, source, target, "--to", "original", "--dtype", "fp16")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 10 ** 7))
    assert "found 0.01 GB free, expected 0.02 GB; free space" in refused(capsys, tmp_path, source, target, "--to", "original")
    monkeypatch.undo()
    assert target.read_bytes() == b"earlier"
    assert convert(source, target, "--to", "original") == 0 and filecmp.cmp(source, target, shallow=False)


# --- damaged diffusers folders -----------------------------------------------------------------------------------------

def rewrite(path, **changes):
    write_file(path, changed(load_file(path), **changes))


def other_heads(folder):
    path = folder / "unet/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": [5, 10, 20]}))


def index_of(folder, text):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.rename(folder / "unet/shard.safetensors")
    path.with_name(path.name + ".index.json").write_text(text)


def two_shards(folder):
    index_of(folder, json.dumps({"weight_map": {"a": "shard.safetensors", "b": "again.safetensors"}}))
    shutil.copy(folder / "unet/shard.safetensors", folder / "unet/again.safetensors")


def only_a_pickle(folder):
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    (folder / "vae/diffusion_pytorch_model.bin").write_bytes(b"PK")


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("damage, expected", [
    (lambda folder: rewrite(folder / WEIGHTS, conv_in__bias=None), "1 keys missing: unet: conv_in.bias; pass the model's"),
    (lambda folder: rewrite(folder / WEIGHTS, conv_in__bias=np.zeros(3, np.float32)),
     "1 misshapen: unet: conv_in.bias (found (3,), expected (32,))"),
    (lambda folder: rewrite(folder / WEIGHTS, conv_in__bias=np.zeros(32, int)), "conv_in.bias (found I64, expected a float"),
    (lambda folder: rewrite(folder / WEIGHTS, more__weight=np.zeros(3)), "1 left over: unet: more.weight"),
    (other_heads, "config.json: num_attention_heads: found [5, 10, 20], expected [2, 4, 4] for tiny_svd; pass"),
    (lambda folder: (folder / "vae/config.json").write_text("[1]"), "config.json: found something else, expected a JSON mapping of at most 8 MB"),
    (lambda folder: (folder / "vae/config.json").write_text("[" * 100_000), "config.json: found something else, expected a JSON mapping"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b""), "found an empty file, expected weights"),
    (only_a_pickle, "found only diffusion_pytorch_model.bin, a pickle, which can run code when opened, expected"),
    (lambda folder: (folder / WEIGHTS).unlink(), "unet: found no weights, expected diffusion_pytorch_model.safetensors"),
    (lambda folder: index_of(folder, "{"), "index.json: found something else, expected a JSON mapping"),
    (lambda folder: index_of(folder, "{}"), "weight_map: found no names of files"),
    (lambda folder: index_of(folder, '{"weight_map": {"a": "../shard.safetensors"}}'), "found ../shard.safetensors"),
    (lambda folder: index_of(folder, '{"weight_map": {"a": "shard.bin"}}'), "weight_map: found shard.bin, expected names"),
    (lambda folder: index_of(folder, '{"weight_map": {"a": 3}}'), "weight_map: found no names of files"),
    (lambda folder: index_of(folder, '{"weight_map": {"a": "none.safetensors"}}'), "none.safetensors: cannot be read"),
    (two_shards, "found in two files of its folder, expected once")])
def test_damaged_folders(damage, expected, folder, tmp_path, capsys):
    damage(folder)
    assert expected in refused(capsys, tmp_path, folder, tmp_path / "a.safetensors", "--to", "original")


def test_a_base_of_other_widths(folder, files, tmp_path, capsys):
    shutil.rmtree(folder / "unet")
    arrays = changed(build_checkpoint("svd"), **{UNET + "out__2__bias": np.zeros(5, np.float32)})
    base = write_file(tmp_path / "base.safetensors", arrays)
    assert "misshapen: model.diffusion_model.out.2.bias (found (5,), expected (4,))" in refused(
        capsys, tmp_path, folder, tmp_path / "a.safetensors", "--to", "original", "--base", base)


# --- what is left when it is stopped -----------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, target", [("mindspore", "a.ckpt"), ("original", "a.safetensors"), ("diffusers", "a")])
def test_ctrl_c(kind, target, files, tmp_path, capsys, monkeypatch):
    def stop(*args):
        stop.calls += 1
        if stop.calls == 700:
            raise KeyboardInterrupt
        return dtypes.cast(*args)

    stop.calls = 0
    for format in (safetensors_format, mindspore_format):
        monkeypatch.setattr(format, "slices", lambda store, key, dtype=None: iter([
            stop(np.ascontiguousarray(store.raw(key)).reshape(-1), "F32", "F32").view(np.uint8)]))
    assert convert(files / "svd.safetensors", tmp_path / target, "--to", kind, "--report", tmp_path / "r.csv") == 130
    assert "convert.py: interrupted; nothing was written" in capsys.readouterr().err
    assert stop.calls == 700 and os.listdir(tmp_path) == []


def command(*args):
    return [sys.executable, str(ROOT / "tools/convert.py"), *map(str, args), "--config", str(SVD)]


@pytest.mark.parametrize("kind, target", [("mindspore", "a.ckpt"), ("diffusers", "a")])
def test_a_full_disk(kind, target, files, tmp_path):
    """A limit of 3 MB on a file's size stands for it."""
    limit = 3 << 20
    done = subprocess.run(command(files / "svd.safetensors", tmp_path / target, "--to", kind), capture_output=True, text=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "cannot be written (File too large, " in line and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind, target", [("mindspore", "a.ckpt"), ("diffusers", "a")])
@pytest.mark.parametrize("lie", ["values", "names"])
def test_verify_finds_what_was_written_wrong(lie, kind, target, files, tmp_path, capsys, monkeypatch):
    """The target then does not appear; without --verify nothing would be noticed."""
    def wrong(store, key, dtype=None):
        for block in slices(store, key, dtype):
            yield block ^ np.uint8(key.endswith("conv_out.bias"))

    flags = ["--to", kind, "--verify"]
    if lie == "values":
        monkeypatch.setattr(conversion, "slices", wrong)
    elif kind == "diffusers":                   # two tensors of one shape change places
        monkeypatch.setitem(conversion.write_folder.__globals__, "write_safetensors", swapped(safetensors_format.write_safetensors))
    else:
        monkeypatch.setattr(conversion, "write_ckpt", swapped(mindspore_format.write_ckpt))
    assert "found other values on reading it back, expected those of the source" in refused(
        capsys, tmp_path, files / "svd.safetensors", tmp_path / target, *flags)
    assert lie == "values" or convert(files / "svd.safetensors", tmp_path / target, *flags[:2]) == 0


def swapped(writer):
    def write(path, store, *args):
        first, second = [key for key in store if key.endswith("norm1.weight")][:2] if len(store) > 500 else (None, None)
        entries = store._entries
        if first and store.shape(first) == store.shape(second):
            store._entries = {**entries, first: entries[second], second: entries[first]}
        writer(path, store, *args)
        store._entries = entries
    return write


# --- memory ------------------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_memory_at_full_size(tmp_path):
    """9.4 GB through less than 1.5 GB of anonymous memory (measured 0.05); SIGTERM leaves nothing behind."""
    if shutil.disk_usage(tmp_path).free < 12e9:
        pytest.skip("needs 12 GB of disk")
    shapes = manifest("sv3d_p")
    source = sparse(tmp_path / "sv3d_p.safetensors", shapes)
    command = [sys.executable, str(ROOT / "tools/convert.py"), str(source), str(tmp_path / "a.ckpt"), "--to", "mindspore"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".a.ckpt.*.tmp")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130 and os.listdir(tmp_path) == [source.name]
    process = subprocess.Popen([*command, "--verify"], stderr=subprocess.DEVNULL)
    peak = 0

    def sample():
        nonlocal peak
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))])
            time.sleep(0.02)

    thread = threading.Thread(target=sample)
    thread.start()
    assert process.wait() == 0
    thread.join()
    assert 0 < peak < 1.5e9
    ours = open_checkpoint(tmp_path / "a.ckpt")
    assert {key: ours.shape(key) for key in ours} == {key: tuple(shape) for key, shape in shapes.items()}
