"""Loads published weights of feed-forward networks, naming every mismatch and the license.

Files are safetensors, or PyTorch's zip form; keys are the published ones, as they are or under one
prefix, such as the `model_state_dict` of VFusion3D's first release.
"""
import logging
import re

from sgm.checkpoints.identify import misfit_message, misfits_of
from sgm.checkpoints.loading import assign_weights
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError, View, passthrough
from sgm.common.errors import argument
from sgm.config.lrm import load_lrm_spec
from sgm.config.yaml_reader import known_configs

log = logging.getLogger("sgm")
# Keys that nothing reads: what stands for masked patches in DINOv2's training, the pooled token of
# transformers' ViT, and what the state of a training has besides the weights.
_UNUSED = re.compile(r".*\.embeddings\.mask_token|image_tokenizer\.model\.pooler\.dense\.\w+"
                     r"|image_tokenizer\.image_(mean|std)|(m|v|average)/.*")

# The layer from tokens to planes, whose name and shape tell the known networks apart.
_UPSAMPLING = {"vfusion3d": "transformer.deconv.weight", "openlrm": "upsampler.weight",
               "triposr": "post_processor.upsample.weight"}


def is_unused(key):
    """Return whether a published key has no use."""
    return _UNUSED.fullmatch(key) is not None


def load_published(network, spec, path):
    """Give every parameter of a network (`build_network`) its tensor in a file. Return a Report.

    Logs a line with the license of the weights. Raises CheckpointError.
    """
    store = open_published(path, network, spec)
    report = assign_weights(network, store, unused=[key for key in store if is_unused(key)])
    log.info("%s; weights of %s: %s", report, spec.name, spec.license)
    return report


def open_published(path, network, spec):
    """Return the TensorStore of a file with all keys and shapes of a network and no others.

    Raises CheckpointError: another network, naming the known one that it looks like; keys missing
    or left over.
    """
    shapes = {key: tuple(p.shape) for key, p in network.parameters_dict().items()}
    store = _without_prefix(open_checkpoint(path), shapes)
    missing, misshapen, extra, _ = misfits_of(store, shapes)
    extra = [key for key in extra if not is_unused(key)]
    if missing or misshapen or extra:
        flag = argument("config", "--config")
        key, name = _looks_like(store)
        if name not in (None, spec.name):
            raise CheckpointError(f"{store.path}: {key}: found the weights of {name}, expected"
                                  f" those of {spec.name}; pass {flag} {name}")
        raise CheckpointError(
            f"{store.path}: does not fit {spec.name}: {misfit_message(missing, misshapen, extra)};"
            f" give the whole file of {spec.name}, or the {flag} that it is of:"
            f" {', '.join(known_configs('lrm'))} or a YAML file")
    return store


def _without_prefix(store, shapes):
    """Return a TensorStore of the keys under the one prefix that all keys of `shapes` may have.

    What has another prefix, as a training's state has, is passed over; a line says so.
    """
    first = next(iter(shapes))
    if first in store:
        return store
    prefixes = [key.removesuffix(first) for key in store if key.endswith("." + first)]
    if len(prefixes) != 1:
        return store
    prefix, = prefixes
    rows = {key.removeprefix(prefix): passthrough(store, key) for key in store
            if key.startswith(prefix)}
    if len(rows) < len(store):
        log.info("%s: uses the tensors under %s, not %d others", store.path, prefix,
                 len(store) - len(rows))
    return View(store.path, store.format, rows, store.metadata)


def _looks_like(store):
    """Return a telling key and the known network that it is of, or None twice."""
    for name in known_configs("lrm"):
        spec = load_lrm_spec(name)
        key, triplane = _UPSAMPLING[spec.family], spec.triplane
        factor = triplane.upsampling
        if key in store and store.shape(key) == (triplane.width, triplane.channels, factor, factor):
            return key, name
    return None, None
