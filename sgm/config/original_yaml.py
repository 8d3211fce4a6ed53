"""Reads the reference implementation's own YAML files (`target:` class paths with `params:`) into a ModelSpec.

One table says, for each class that a released model names, where its parameters go. Nothing is instantiated: a class
path is only ever looked up here, and one that is not here is an error. A parameter that would change the network in
a way ours has no setting for must have the value of the released models.
"""
import difflib
from pathlib import Path
from typing import NamedTuple

from sgm.config.model import ANGLES, ClipSpec, ModelSpec
from sgm.config.yaml_reader import ConfigError, build, find_config, known_configs, load_yaml, shown

# OpenCLIP image towers by name. The two small ones are those that the goldens of `tests/golden` were made with.
ARCHS = {
    "ViT-H-14": ClipSpec(),
    "tiny-vit": ClipSpec(patch_size=28, width=160, layers=2, embed_dim=64),
    "tiny-vit14": ClipSpec(patch_size=14, width=160, layers=3, embed_dim=64),
}


class Rule(NamedTuple):
    """How the parameters of one reference class are read."""
    fields: dict = {}       # parameter -> key of ModelSpec; must be given
    options: dict = {}      # parameter -> key of ModelSpec; may be given
    fixed: dict = {}        # parameter -> the one value ours has; must be given
    assumed: dict = {}      # parameter -> the one value ours has; may be given
    free: tuple = ()        # parameters that do not change what is computed, or are read by `read_reference` itself
    parts: dict = {}        # parameter -> classes it may name; must be given
    extras: dict = {}       # parameter -> classes it may name; may be given
    sets: dict = {}         # key of ModelSpec -> value that naming this class means


def _same(section, *names):
    return {name: f"{section}.{name}" for name in names}


_VAE = Rule(
    fields=_same("vae", "ch", "ch_mult", "num_res_blocks", "z_channels"),
    fixed={"in_channels": 3, "out_ch": 3, "attn_resolutions": []},
    assumed={"double_z": True, "dropout": 0.0, "tanh_out": False},
    free=("attn_type", "resolution"))
_KL = Rule(
    fields={"embed_dim": "vae.z_channels"}, parts={"ddconfig": None}, free=("monitor", "lossconfig", "ckpt_path"))
_SAMPLER = Rule(
    options={"num_steps": "sampling.steps"}, free=("device", "verbose"),
    assumed={"s_churn": 0.0, "s_tmin": 0.0, "s_noise": 1.0},
    extras={"discretization_config": ("EDMDiscretization",),
            "guider_config": ("LinearPredictionGuider", "TrianglePredictionGuider", "TrapezoidPredictionGuider",
                              "VanillaCFG")})
_GUIDER = Rule(
    fields={"max_scale": "sampling.max_scale"}, free=("additional_cond_keys",),
    options={"min_scale": "sampling.min_scale", "num_frames": "num_frames"}, sets={"sampling.min_scale": 1.0})


def _guider(name, **assumed):
    return _GUIDER._replace(sets={**_GUIDER.sets, "sampling.guidance": name}, assumed=assumed)


RULES = {
    "DiffusionEngine": Rule(
        options={"scale_factor": "vae.scale_factor"},
        parts={"network_config": ("VideoUNet",), "conditioner_config": ("GeneralConditioner",),
               "first_stage_config": ("AutoencodingEngine", "AutoencoderKL")},
        extras={"denoiser_config": ("Denoiser",),
                "sampler_config": ("EulerEDMSampler", "HeunEDMSampler", "DPMPP2MSampler")},
        free=("disable_first_stage_autocast", "ckpt_path", "input_key", "log_keys", "no_cond_log", "compile_model",
              "en_and_decode_n_samples_a_time", "use_ema", "ema_decay_rate", "optimizer_config", "scheduler_config",
              "loss_fn_config", "network_wrapper")),
    "Denoiser": Rule(parts={"scaling_config": ("VScalingWithEDMcNoise",)}),
    "VScalingWithEDMcNoise": Rule(),
    "VideoUNet": Rule(
        fields={**_same("unet", "in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks",
                        "attention_resolutions", "num_head_channels", "context_dim"), "adm_in_channels": "adm"},
        fixed={"num_classes": "sequential", "use_linear_in_transformer": True, "extra_ff_mix_layer": True,
               "use_spatial_context": True, "merge_strategy": "learned_with_images", "video_kernel_size": [3, 1, 1]},
        assumed={"transformer_depth": 1, "dropout": 0.0, "conv_resample": True, "dims": 2, "num_heads": -1,
                 "num_heads_upsample": -1, "use_scale_shift_norm": False, "resblock_updown": False,
                 "merge_factor": 0.5, "time_context_dim": None, "disable_temporal_crossattention": False,
                 "max_ddpm_temb_period": 10000},
        free=("use_checkpoint", "spatial_transformer_attn_type")),
    "GeneralConditioner": Rule(free=("emb_models",)),
    "FrozenOpenCLIPImagePredictionEmbedder": Rule(
        parts={"open_clip_embedding_config": ("FrozenOpenCLIPImageEmbedder",)},
        assumed={"n_cond_frames": 1}, free=("n_copies",)),
    "FrozenOpenCLIPImageEmbedder": Rule(
        options={"arch": "clip"}, sets={"clip": "ViT-H-14"}, free=("freeze", "version", "device", "init_device"),
        assumed={"antialias": True, "ucg_rate": 0.0, "unsqueeze_dim": False, "output_tokens": False,
                 "num_image_crops": 0, "repeat_to_max_len": False}),
    "VideoPredictionEmbedderWithEncoder": Rule(
        parts={"encoder_config": ("AutoencoderKLModeOnly",)}, fixed={"is_ae": True},
        assumed={"n_cond_frames": 1, "scale_factor": 1.0}, free=("n_copies", "disable_encoder_autocast",
                                                                 "en_and_decode_n_samples_a_time")),
    "ConcatTimestepEmbedderND": Rule(fields={"outdim": "outdim"}),
    "AutoencoderKLModeOnly": _KL,
    "AutoencoderKL": _KL._replace(sets={"vae.decoder": "image", "vae.post_quant_conv": True}),
    "AutoencodingEngine": Rule(
        parts={"decoder_config": ("Decoder", "VideoDecoder")},
        extras={"encoder_config": ("Encoder", "Identity")},
        free=("loss_config", "regularizer_config", "monitor", "ckpt_path"), sets={"vae.post_quant_conv": False}),
    "ddconfig": _VAE,
    "Encoder": _VAE,
    "Decoder": _VAE._replace(sets={"vae.decoder": "image"}),
    "VideoDecoder": _VAE._replace(
        sets={"vae.decoder": "temporal"}, fixed={**_VAE.fixed, "video_kernel_size": [3, 1, 1]},
        assumed={**_VAE.assumed, "time_mode": "conv-only", "merge_strategy": "learned", "alpha": 0.0}),
    "Identity": Rule(),
    "EulerEDMSampler": _SAMPLER._replace(sets={"sampling.sampler": "euler"}),
    "HeunEDMSampler": _SAMPLER._replace(sets={"sampling.sampler": "heun"}),
    "DPMPP2MSampler": _SAMPLER._replace(sets={"sampling.sampler": "dpmpp2m"}, assumed={}),
    "EDMDiscretization": Rule(options=_same("sampling", "sigma_min", "sigma_max", "rho")),
    "LinearPredictionGuider": _guider("linear"),
    "TrianglePredictionGuider": _guider("triangle", period=1.0, period_fusing="max"),
    "TrapezoidPredictionGuider": _guider("trapezoid", edge_perc=0.1),
    "VanillaCFG": Rule(fields={"scale": "sampling.max_scale"}, sets={"sampling.guidance": "constant"}),
}
EMBEDDER_CLASSES = {
    "cond_frames_without_noise": "FrozenOpenCLIPImagePredictionEmbedder",
    "cond_frames": "VideoPredictionEmbedderWithEncoder",
}


def read_reference(mapping, path):
    """The ModelSpec that a configuration in the reference's form describes.

    `mapping`: the document, with a top-level ``model``; `path` names it in errors and gives the spec its name. What
    the reference leaves to its script (frames, size, steps, noise on the condition image) is that of the released
    model which the file's name, its `ckpt_path` or else its embedders point to. Raises ConfigError.
    """
    reader = _Reader(path)
    model = mapping["model"]
    reader.part(model, "model", ("DiffusionEngine",), free=("base_learning_rate",))
    conditioner = model["params"]["conditioner_config"]
    reader.embedders((conditioner.get("params") or {}).get("emb_models"), "model.params.conditioner_config.params")
    values = reader.values
    widths = values.pop("adm")
    if "clip" in values:
        values["clip"] = vars(reader.choose(values["clip"], ARCHS, "open_clip_embedding_config.params.arch"))
    if values.get("sampling.guidance") == "constant":
        values["sampling.min_scale"] = values["sampling.max_scale"]
    spec = build(_released(values["condition.embedders"], path, model["params"].get("ckpt_path")), _nested(values),
                 path)
    if sum(spec.vector_widths.values()) != widths:
        raise ConfigError(f"{path}: network_config.params.adm_in_channels: found {widths}, expected"
                          f" {sum(spec.vector_widths.values())}, the embedders' outdim together")
    spec.name = Path(path).stem
    return spec


class _Reader:
    """Walks `target`/`params` nodes and collects {key of ModelSpec: value}."""

    def __init__(self, path):
        self.path = path
        self.values = {}

    def put(self, key, value, where):
        if self.values.setdefault(key, value) != value:
            raise ConfigError(f"{self.path}: {where}: {key}: found {shown(value)}, expected"
                              f" {shown(self.values[key])} as in the other parts of this file")

    def choose(self, name, table, where):
        if not isinstance(name, str) or name not in table:
            raise ConfigError(f"{self.path}: {where}: found {shown(name)}, expected one of {', '.join(table)}")
        return table[name]

    def part(self, node, where, classes, free=()):
        """Read one ``{target, params}`` node that may name the given classes."""
        if not isinstance(node, dict) or "target" not in node:
            raise ConfigError(f"{self.path}: {where}: found {shown(node)}, expected target: and params:")
        target = node["target"]
        tail = str(target).rpartition(".")[2]
        if tail not in classes:
            raise ConfigError(f"{self.path}: {where}.target: found {target}, expected a class path that ends in one of"
                              f" {', '.join(classes)}")
        for key in node.keys() - {"target", "params", *free}:
            raise ConfigError(f"{self.path}: {where}.{key}: unknown key, expected target: and params:")
        self.params(node.get("params"), f"{where}.params", RULES[tail])

    def params(self, params, where, rule):
        """Read the parameters of a class by its rule."""
        params = {} if params is None else params
        if not isinstance(params, dict):
            raise ConfigError(f"{self.path}: {where}: found {shown(params)}, expected a mapping")
        for name in (*rule.fields, *rule.fixed, *rule.parts):
            if name not in params:
                raise ConfigError(f"{self.path}: {where}.{name}: found nothing, expected this key")
        given = dict(rule.sets)
        for name, value in params.items():
            key = f"{where}.{name}"
            if name in rule.fields or name in rule.options:
                given[rule.fields.get(name) or rule.options[name]] = value
            elif name in rule.fixed or name in rule.assumed:
                only = rule.fixed[name] if name in rule.fixed else rule.assumed[name]
                if value != only:
                    raise ConfigError(f"{self.path}: {key}: found {shown(value)}, expected {shown(only)}, the only form"
                                      " this network has")
            elif name == "ddconfig" and name in rule.parts:
                self.params(value, key, RULES["ddconfig"])
            elif name in rule.parts or name in rule.extras:
                self.part(value, key, rule.parts.get(name) or rule.extras[name])
            elif name not in rule.free:
                near = difflib.get_close_matches(str(name), [k for group in rule[:-1] for k in group], 1)
                hint = f"; the nearest known one is {near[0]}" if near else ""
                raise ConfigError(f"{self.path}: {key}: unknown parameter, found {shown(value)}{hint}")
        for key, value in given.items():
            self.put(key, value, where)

    def embedders(self, models, where):
        """Read the list of embedders; their order is that of the vector condition and of the published keys."""
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise ConfigError(f"{self.path}: {where}.emb_models: found {shown(models)}, expected a list of embedders")
        names = []
        for index, model in enumerate(models):
            name, key = model.get("input_key"), f"{where}.emb_models.{index}"
            if not isinstance(name, str):
                raise ConfigError(f"{self.path}: {key}.input_key: found {shown(name)}, expected a name")
            self.part(model, key, (EMBEDDER_CLASSES.get(name, "ConcatTimestepEmbedderND"),),
                      free=("input_key", "is_trainable", "ucg_rate", "legacy_ucg_value"))
            if "outdim" in self.values:
                width = "condition.angle_dim" if name in ANGLES else "condition.scalar_dim"
                self.put(width, self.values.pop("outdim"), key)
            names.append(name)
        self.values["condition.embedders"] = names


def _released(embedders, path, checkpoint):
    """The released model that a file is a form of: by the longest name its own or its checkpoint's name begins with."""
    for candidate in (path, checkpoint):
        stem = Path(str(candidate or "")).stem
        for name in sorted(known_configs("sampling"), key=len, reverse=True):
            if stem.startswith(name):
                return load_yaml(ModelSpec, find_config(name, "sampling"))
    name = "sv3d_p" if "polars_rad" in embedders else "svd" if "fps_id" in embedders else "sv3d_u"
    return load_yaml(ModelSpec, find_config(name, "sampling"))


def _nested(values):
    """{dotted key: value} as nested mappings."""
    nested = {}
    for dotted, value in values.items():
        *sections, leaf = dotted.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return nested
