"""Finds the published names in the keys of other programs: wrappers, averages, training's own keys.

A key is <prefix><published name>. Wrappers of PyTorch (`module.`, `_orig_mod.`) mean nothing and
are removed. What is left of the prefix says whose tensor it is: the model's own, that of a moving
average (EMA), or an optimizer's. A key without a certain meaning stays as it is, for the comparison
with the model to name it.
"""
import logging
import re
from collections import defaultdict

from sgm.checkpoints.foreign.file_kinds import refuse_lora, refuse_others
from sgm.checkpoints.original_keys import CONDITIONER, FIRST_STAGE, UNET, used_shapes
from sgm.checkpoints.store import CheckpointError, View, passthrough
from sgm.common.errors import argument
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import known_configs

log = logging.getLogger("sgm")
AVERAGE = "moving average"      # in the metadata of weights that are one
# Of DataParallel, torch.compile, Lightning, FSDP, and dictionaries written flat.
_WRAPPERS = re.compile(r"(?:^|(?<=[./]))(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module"
                       r"|_checkpoint_wrapped_module|state_dict)\.")
_PREFIX = r"((?:[^./]+[./])*?)"
_WHOLE = re.compile(
    _PREFIX + r"((?:model\.diffusion_model|first_stage_model|conditioner\.embedders)\..+)")
_UNET_ALONE = re.compile(
    _PREFIX + r"(?:(?:model|unet|net|network|diffusion_model)\.)*"
    r"((?:(?:input|output)_blocks\.\d+\.\d|middle_block\.\d|time_embed\.[02]|label_emb\.0\.[02]"
    r"|out\.[02])\..+)")
_DOTLESS = re.compile(_PREFIX + r"(\w+)")    # LitEma: names of buffers have no dots
_DOTLESS_WRAPPERS = re.compile(r"(?<=diffusion_model)(?:_orig_mod|module)+")
_AVERAGE = re.compile(r"(?i)(?:\w+_)?ema\d*(?:_\w+)?|averaged?(?:_\w+)?|shadow(?:_\w+)?"
                      r"|swa(?:_\w+)?")
# Adam, LAMB, Lion, momentum, accumulated gradients, exchanged weights; m/ and v/ are train.py's.
_TRAINING = re.compile(r"(?:adam|lamb|lion|adan|came)(?:_\w+)?|moments?\d?|momentum|vhat"
                       r"|exp_avg(?:_\w+)?|accum?(?:_\w+)?|grads?(?:_\w+)?|optim(?:izer)?(?:_\w+)?"
                       r"|swap|[mv]/")
# What only training needs, and text towers: nothing of it changes what the network computes.
_HARMLESS = re.compile(
    r"(?:.*\.)?(?:(?:\w+_)?(?:step|epoch)s?|(?:step|epoch)_num|iterations?|(?:num_)?updates|initted"
    r"|(?:ema_|weight_)?decay|n_averaged|learning_rate|lr|loss_scale|scale_(?:sense|window|value)"
    r"|growth_tracker|beta[12]_power|logvar|pytorch-lightning_version|v_pred)"
    r"|.*\.(?:exp_avg(?:_sq)?|max_exp_avg_sq|momentum_buffer)"
    r"|betas|alphas_cumprod\w*|posterior_\w+|sqrt_\w+|log_one_minus_alphas_cumprod|lvlb_weights"
    r"|(?:lr_schedulers?|scheduler|callbacks|loops|hyper_parameters|loss_fn|loss|discriminator"
    r"|lpips|perceptual_loss|optim\w*|adam\w*|moments?\d?)\..*"
    r"|(?:first_stage_model|conditioner\.embedders\.\d+\.encoder)\.(?:loss|model_ema|discriminator)"
    r"\..*"
    r"|conditioner\.embedders\.\d+\.open_clip\.model\.(?:attn_mask|visual\.position_ids"
    r"|transformer\.resblocks\..*)")
# Noise levels, of a denoiser that tells its network their numbers.
_SIGMAS = re.compile(r"(?:denoiser|model_sampling)\.(?:log_)?sigmas")
# Names of MindSpore's own layers, and of SVD's port to it.
_MINDSPORE = ((re.compile(r"\.gamma$"), ".weight"), (re.compile(r"\.beta$"), ".bias"),
              (re.compile(r"\.embedding_table$"), ".weight"),
              (re.compile(r"\.conv_out\.conv3d\."), ".conv_out.time_mix_conv."))


def plain_key(key):
    """Return a key without wrappers, its last word as PyTorch's layers have it."""
    key = _WRAPPERS.sub("", key)
    for pattern, name in _MINDSPORE:
        key = pattern.sub(name, key)
    return key


def is_harmless(key):
    """Return whether a plain key is something that only training needs."""
    return _HARMLESS.fullmatch(key) is not None


def unwrapped(store, spec=None, ema=False):
    """Return a TensorStore with the published names of what a file of any program holds.

    It is the same store if there is nothing to do. spec: the ModelSpec, if it is known: names
    without dots are compared with its keys. ema: a moving average takes the place of the weights
    that it is of. A line is logged where a file has both, and where something passed over may
    matter. Raises CheckpointError for a file that is known to be something else, for two tensors
    that have one meaning, and for `ema` without an average.
    """
    refuse_lora(store)
    weights, averages, rest, dropped, sigmas = _sorted(store, spec, ema)
    refuse_others(store, has_parts=bool(weights or averages))
    sources, averaged = {**_of_one_prefix(store, weights), **rest}, {}
    if averages:
        part = {name for found in averages.values() for names in found.values() for name in names}
        lone = not part & set(sources)
        if ema or lone:
            averaged = _of_one_prefix(store, averages)
        _say_average(store, averages, len(part), ema, lone)
    elif ema:
        raise CheckpointError(f"{store.path}: found no moving average of the weights in it,"
                              f" expected one for {argument('ema')}; leave out {argument('ema')}")
    if sigmas:
        log.warning("%s: %s passed over: noise levels of a denoiser that tells its network their"
                    " numbers; here the network is told ln(sigma) / 4, as SVD and SV3D are",
                    store.path, sigmas[0])
    if dropped and not _is_state(store):
        log.info("%s: %d tensors that only training needs passed over, such as %s", store.path,
                 len(dropped), dropped[0])
    sources.update(averaged)
    if all(name == key for name, key in sources.items()) and len(sources) == len(store):
        return store
    order = {key: place for place, key in enumerate(store)}
    rows = {name: passthrough(store, key, "moving average" if name in averaged else "")
            for name, key in sorted(sources.items(), key=lambda item: order[item[1]])}
    metadata = {**store.metadata, **({AVERAGE: "taken"} if averaged else {})}
    return View(store.path, store.format, rows, metadata)


def _sorted(store, spec, ema):
    """Return the keys of a store by what they are.

    They are weights and averages, each {part: {prefix: {published name: key}}}, {plain name: key}
    of those without a meaning, and lists of those passed over: also averages of unknown tensors,
    unless the averages are wanted (ema).
    """
    weights, averages = defaultdict(dict), defaultdict(dict)
    rest, dropped, sigmas, undotted, numbered = {}, [], [], [], []
    for key in store:
        plain = plain_key(key)
        match = _WHOLE.fullmatch(plain) or _UNET_ALONE.fullmatch(plain)
        dotless = _DOTLESS.fullmatch(plain)
        if is_harmless(plain):
            dropped.append(key)
        elif _SIGMAS.fullmatch(plain):
            sigmas.append(key)
        elif not match and dotless and _role(dotless[1]) == "average":
            undotted.append((key, dotless[1], _DOTLESS_WRAPPERS.sub("", dotless[2])))
        elif not match:
            rest[key] = key
        elif (role := _role(match[1])) == "training":
            dropped.append(key)
        else:
            name = match[2] if _part(match[2]) else UNET + match[2]
            _put(store, averages if role == "average" else weights, match[1], name, key)
    names = _without_dots(spec, weights) if undotted else {}
    for key, prefix, name in undotted:
        if name in names:
            _put(store, averages, prefix, names[name], key)
        elif name.isdigit():
            numbered.append(key)
        elif ema:
            rest[key] = key
        else:
            dropped.append(key)
    if numbered:
        found = f"{numbered[0]}: found a moving average (EMA) of numbers without names"
        if ema:
            raise CheckpointError(f"{store.path}: {found}, expected names; copy it into the model"
                                  " with the program that made it, and save that")
        log.warning("%s: %s, which is passed over; the weights are used", store.path, found)
    return weights, averages, rest, dropped, sigmas


def _role(prefix):
    """Return whose a tensor with that prefix is: "average", "training" (an optimizer's), "own"."""
    words = re.findall(r"[^./]+(?:/|(?=\.))", prefix)
    if any(_AVERAGE.fullmatch(word.rstrip("/")) for word in words):
        return "average"
    return "training" if any(map(_TRAINING.fullmatch, words)) else "own"


def _part(name):
    """Return the network that a published name belongs to, or None."""
    return next((part for part in (UNET, FIRST_STAGE, CONDITIONER) if name.startswith(part)), None)


def _put(store, found, prefix, name, key):
    names = found[_part(name)].setdefault(prefix, {})
    if name in names:
        raise CheckpointError(f"{store.path}: found {names[name]} and {key}, which are both {name},"
                              " expected it once; save the model without one of them")
    names[name] = key


def _without_dots(spec, weights):
    """Return {published key without its dots: the key}, those of a UNet also without "model".

    The keys are those of the model, or of all known models, and those of the file.
    """
    specs = [load_spec(name) for name in known_configs("sampling")] if spec is None else [spec]
    keys = {key for known in specs for key in used_shapes(known)}
    keys |= {key for found in weights.values() for names in found.values() for key in names}
    return {name.replace(".", ""): key
            for key in keys for name in (key, key.removeprefix("model."))}


def _of_one_prefix(store, found):
    """Return {published name: key} of what may have one prefix for each network; none goes first.

    Raises CheckpointError for several of the same network.
    """
    names = {}
    for part, prefixes in found.items():
        if len(prefixes) > 1 and "" not in prefixes:
            raise CheckpointError(f"{store.path}: found {part}... {len(prefixes)} times, under"
                                  f" {' and '.join(sorted(prefixes))}, expected it once; save the"
                                  " one that is meant by itself")
        chosen = "" if "" in prefixes else next(iter(prefixes))
        for prefix, keys in prefixes.items():
            names.update(keys if prefix == chosen else {key: key for key in keys.values()})
    return names


def _say_average(store, averages, count, ema, lone):
    """Log which of the weights and their moving average are used."""
    prefixes = sorted({prefix for found in averages.values() for prefix in found})
    where = f"a moving average (EMA) of {count} tensors under {', '.join(prefixes)}"
    if ema:
        log.warning("%s: uses %s", store.path, where)
    elif lone:
        log.warning("%s: uses %s: the weights themselves are not in it", store.path, where)
    else:
        taken = argument("ema", "--ema of simple_video_sample.py and tools/convert.py")
        if _is_state(store):
            log.warning("%s: a state of train.py, uses the weights of its last step; their moving"
                        " average is in a file of its own next to it, and %s takes it", store.path,
                        taken)
        else:
            log.warning("%s: uses the weights, not %s; %s takes the average", store.path, where,
                        taken)


def _is_state(store):
    """Return whether a file is what train.py resumes from: everything in it has its use there."""
    return "run" in store.metadata and any(key.startswith("average/") for key in store)
