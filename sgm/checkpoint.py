"""Weights: which model a file holds, from the file into a network, and from arrays into a file.

Parameter names are the published keys, so a published file is loaded as it is and our own files have its layout.
Everything a file and a network do not share is an error that names it, apart from the keys that nothing uses.
"""
import hashlib
import json
import logging
import os
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor

from sgm.config import known_configs
from sgm.specs import load_spec
from sgm.tensorfiles import DTYPES, Checkpoint, CheckpointError, open_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "Layout", "Report", "adapt_spec", "atomic_file", "check_weights", "file_hash",
           "is_unused", "layout_of", "load_weights", "open_checkpoint", "save_safetensors"]

log = logging.getLogger("sgm")

UNET, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."
VECTOR_KEY = UNET + "label_emb.0.0.weight"      # (4 * channels, width of the vector condition)
INPUT_KEY = UNET + "input_blocks.0.0.weight"    # (channels, 8, 3, 3)
# Published keys that nothing reads: what is left of CLIP's text tower, the decoder inside the conditioner's
# autoencoder, and the first stage's own encoder (the conditioner's is the one that is used).
_UNUSED = re.compile(
    r"conditioner\.embedders\.\d+\.open_clip\.model\."
    r"(ln_final\.weight|ln_final\.bias|logit_scale|positional_embedding|text_projection|token_embedding\.weight)$"
    r"|conditioner\.embedders\.\d+\.encoder\.(decoder|post_quant_conv)\."
    r"|first_stage_model\.(encoder|quant_conv)\.")
_SHOWN = 8                                      # names of a kind in an error


def is_unused(key):
    """Whether a published key has no use in sampling or training."""
    return _UNUSED.match(key) is not None


class Layout(NamedTuple):
    """What a checkpoint's keys and shapes say of its model; None where it does not hold that part."""
    decoder: Optional[str]                      # "temporal" or "image"
    post_quant_conv: bool                       # the first stage has its 1x1 convolutions (svd_image_decoder)
    has_encoder: bool                           # the first stage has an encoder of its own
    vector_width: Optional[int]                 # columns of the vector condition
    vae_embedder: Optional[int]                 # N of the conditioner.embedders.N that is the autoencoder
    channels: Optional[int]                     # of the UNet's first level


def layout_of(checkpoint):
    """The Layout of an open Checkpoint; reads names and shapes only. Raises CheckpointError for a diffusers file."""
    keys = list(checkpoint)
    if not any(key.startswith((UNET, FIRST_STAGE, "conditioner.")) for key in keys):
        other = next((key for key in keys if re.search(r"(^|\.)(down_blocks|mid_block|vision_model)\.", key)), None)
        if other:
            raise CheckpointError(f"{checkpoint.path}: {other}: found the names of a diffusers part, expected"
                                  f" {UNET}...; convert the diffusers folder to one .safetensors file first")
    decoder = None
    if any(key.startswith(FIRST_STAGE + "decoder.") for key in keys):
        temporal = FIRST_STAGE + "decoder.mid.block_1.time_stack."
        decoder = "temporal" if any(key.startswith(temporal) for key in keys) else "image"
    embedder = next((re.match(r"conditioner\.embedders\.(\d+)\.encoder\.", key) for key in keys
                     if ".encoder.quant_conv." in key), None)
    return Layout(
        decoder=decoder,
        post_quant_conv=FIRST_STAGE + "post_quant_conv.weight" in checkpoint,
        has_encoder=any(key.startswith(FIRST_STAGE + "encoder.") for key in keys),
        vector_width=_size(checkpoint, VECTOR_KEY, 1),
        vae_embedder=int(embedder[1]) if embedder else None,
        channels=_size(checkpoint, INPUT_KEY, 0))


def _size(checkpoint, key, axis):
    shape = checkpoint.shape(key) if key in checkpoint else ()
    return shape[axis] if len(shape) > axis else None


def adapt_spec(spec, checkpoint):
    """`spec` with what the checkpoint (open, or a path) shows: its decoder, and whether that has 1x1 convolutions.

    Raises CheckpointError when the checkpoint plainly is another model's, naming the one it looks like.
    """
    checkpoint = _opened(checkpoint)
    layout = layout_of(checkpoint)
    for found, expected, where in (
            (layout.vector_width, sum(spec.vector_widths.values()), f"{VECTOR_KEY}: found {{}} columns"),
            (layout.channels, spec.unet.model_channels, f"{INPUT_KEY}: found {{}} channels"),
            (layout.vae_embedder, spec.condition.embedders.index("cond_frames"),
             "found the autoencoder at conditioner.embedders.{}")):
        if found is not None and found != expected:
            raise CheckpointError(f"{checkpoint.path}: {where.format(found)}, expected {expected} for {spec.name};"
                                  f" {_looks_like(layout)}")
    if layout.decoder is None:
        return spec
    return replace(spec, vae=replace(spec.vae, decoder=layout.decoder, post_quant_conv=layout.post_quant_conv))


def _looks_like(layout):
    """The remedy for a checkpoint of another model: which of ours it looks like, by its vector condition."""
    specs = [load_spec(name) for name in known_configs("sampling")]
    alike = [spec for spec in specs if sum(spec.vector_widths.values()) == layout.vector_width]
    if not alike:
        return "is of another model: pass its --config"
    same = [spec for spec in alike if spec.unet.model_channels == layout.channels]
    names = " or ".join(spec.name for spec in same or alike)
    if not same:
        return f"looks like {names} of other widths: pass its --config"
    return f"looks like {names}: pass --config configs/{same[0].name}.yaml"


def _opened(checkpoint):
    return checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)


# --- from a file into a network --------------------------------------------------------------------------------

@dataclass
class Report:
    """What `load_weights` did; its text is one line."""
    path: str
    format: str
    loaded: int = 0
    nbytes: int = 0                             # of the loaded parameters
    converted: Counter = field(default_factory=Counter)  # "F16 to Float32" -> tensors
    unused: list = field(default_factory=list)  # keys passed over because nothing uses them

    def __str__(self):
        parts = [f"{self.path}: {self.loaded} tensors, {self.nbytes / 1e9:.2f} GB"]
        parts += [f"{count} converted from {kind}" for kind, count in self.converted.items()]
        if self.unused:
            parts.append(f"{len(self.unused)} unused keys passed over")
        return ", ".join(parts)


def check_weights(cell, checkpoint, prefix=""):
    """Raise CheckpointError unless `checkpoint` (open, or a path) has what `load_weights` would read, and no more.

    -> the keys passed over because nothing uses them.
    """
    checkpoint = _opened(checkpoint)
    parameters = cell.parameters_dict()
    missing, misfits, extra, unused = [], [], [], []
    for key, parameter in parameters.items():
        if key not in checkpoint:
            missing.append(key)
        elif checkpoint.shape(key) != tuple(parameter.shape):
            misfits.append(f"{key} (found {checkpoint.shape(key)}, expected {tuple(parameter.shape)})")
        elif "F" not in checkpoint.dtype(key):
            misfits.append(f"{key} (found {checkpoint.dtype(key)}, expected a floating type)")
    for key in checkpoint:
        if key.startswith(prefix) and key not in parameters:
            (unused if is_unused(key) else extra).append(key)
    if missing or misfits or extra:
        raise CheckpointError(_misfit_message(checkpoint, missing, misfits, extra))
    return unused


def load_weights(cell, checkpoint, dtype=None, prefix=""):
    """Give every parameter of `cell` (a mindspore Cell) the tensor of its name; -> Report.

    `checkpoint`: a path or an open Checkpoint. `dtype`: the mindspore float type that the parameters take; None leaves
    each as it is. `prefix`: only the file's keys that begin with it must have a parameter (to load a part of a model).
    A tensor that already has its parameter's type stays in the file, mapped, and takes no memory of its own: the file
    must then outlive the network. Raises CheckpointError, before anything is changed, when a parameter has no tensor, a
    tensor no parameter and a use, or a shape differs; and on the way when a value is beyond the range of `dtype`.
    """
    checkpoint = _opened(checkpoint)
    report = Report(str(checkpoint.path), checkpoint.format, unused=check_weights(cell, checkpoint, prefix))
    for key, parameter in cell.parameters_dict().items():
        wanted = dtype or parameter.dtype
        parameter.assign_value(_tensor(checkpoint, key, wanted, report))
        report.loaded += 1
        report.nbytes += parameter.nbytes
    log.info("%s", report)
    return report


def _tensor(checkpoint, key, dtype, report):
    array = checkpoint.read(key)
    kind = np.dtype("bfloat16") if dtype == ms.bfloat16 else np.dtype(ms.dtype_to_nptype(dtype))
    if checkpoint.dtype(key) == "BF16" or array.dtype != kind:
        try:
            with np.errstate(over="raise"):
                array = array.astype(kind, copy=False)
        except FloatingPointError:
            raise CheckpointError(f"{checkpoint.path}: {key}: found values beyond the range of {kind}, expected at most"
                                  f" {np.finfo(kind).max:.0f}; load it as float32") from None
        report.converted[f"{checkpoint.dtype(key)} to {dtype}"] += 1
    if not checkpoint.holds(array):
        checkpoint.release(key)
    return Tensor.from_numpy(array)


def _misfit_message(checkpoint, missing, misfits, extra):
    parts = []
    for names, what in ((missing, "keys missing"), (misfits, "misshapen"), (extra, "left over")):
        if names:
            more = ", ..." if len(names) > _SHOWN else ""
            parts.append(f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}")
    return (f"{checkpoint.path}: does not fit the model: {'; '.join(parts)}; if the file is whole, it"
            f" {_looks_like(layout_of(checkpoint))}")


# --- into a file ----------------------------------------------------------------------------------------------

@contextmanager
def atomic_file(path, size=None):
    """A binary file to write that appears at `path` once it is complete, or not at all.

    It is written beside `path`, forced to disk, then renamed. Raises CheckpointError when that cannot be done (a full
    disk: `size`, the bytes needed, is named); an earlier file at `path` is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        need = "" if size is None else f", {size / 1e6:.1f} MB needed"
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}{need}); nothing was changed: free space, or"
                              " write to another folder") from None
    finally:
        temporary.unlink(missing_ok=True)       # gone already when all went well


def save_safetensors(path, tensors, metadata=None):
    """Write ``{key: numpy array}`` as one safetensors file, tensor after tensor: no second copy is held.

    `metadata`: ``{str: str}``. Raises CheckpointError when the file cannot be written or an array's type cannot be
    stored; `path` never holds half a file.
    """
    names = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}
    header = {"__metadata__": {str(key): str(value) for key, value in metadata.items()}} if metadata else {}
    # Wide types first: every tensor then begins at a multiple of its element's size.
    keys = sorted(tensors, key=lambda key: -tensors[key].dtype.itemsize)
    at = 0
    for key in keys:
        array = tensors[key]
        # MindSpore's numpy bfloat16 is known by its name only.
        name = "BF16" if array.dtype.name == "bfloat16" else names.get(array.dtype.newbyteorder("<"))
        if name is None:
            raise CheckpointError(f"{path}: {key}: found element type {array.dtype}, expected one of"
                                  f" {', '.join(DTYPES)}; convert it first")
        header[key] = {"dtype": name, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % 64)      # data begin where vector instructions like it
    with atomic_file(path, 8 + len(text) + at) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in keys:
            array = np.ascontiguousarray(tensors[key])
            if array.dtype.byteorder == ">":
                array = array.astype(array.dtype.newbyteorder("<"))
            file.write(array.reshape(-1).view(np.uint8).data)


def file_hash(path, whole=1 << 30, blocks=64):
    """A name for a file's content, with its scheme: ``sha256:…`` of files up to `whole` bytes.

    Of larger ones ``sha256-size-64MiB:…``: of the size and `blocks` MiB spread evenly from the first (a safetensors
    header) to the last: a fraction of a second instead of a minute. Raises CheckpointError when it cannot be read.
    """
    digest, mib = hashlib.sha256(), 1 << 20
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= whole:
                while block := file.read(mib):
                    digest.update(block)
                return f"sha256:{digest.hexdigest()}"
            digest.update(str(size).encode())
            for block in range(blocks):
                file.seek((size - mib) * block // (blocks - 1))
                digest.update(file.read(mib))
            return f"sha256-size-{blocks}MiB:{digest.hexdigest()}"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); expected a file") from None
