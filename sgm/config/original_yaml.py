"""Reads the original's own YAML files (`target:` class paths with `params:`) into a ModelSpec.

One table says, for each class that a published model names, where its parameters go. Nothing is
instantiated: a class path is only looked up here, and one that is not here is an error. A parameter
that would change the network in a way for which ours has no setting must have the value of the
published models.
"""
import difflib
from pathlib import Path
from typing import NamedTuple

from sgm.config.checks import require
from sgm.config.model import ANGLES, ClipSpec, ModelSpec
from sgm.config.yaml_reader import ConfigError, build, find_config, known_configs, load_yaml, shown

# OpenCLIP image towers by name. The two small ones are those that the goldens of `tests/golden`
# were made with.
ARCHS = {
    "ViT-H-14": ClipSpec(),
    "tiny-vit": ClipSpec(patch_size=28, width=160, layers=2, embed_dim=64),
    "tiny-vit14": ClipSpec(patch_size=14, width=160, layers=3, embed_dim=64),
}


class Rule(NamedTuple):
    """How the parameters of one of the original's classes are read."""
    fields: dict = {}       # parameter -> key of ModelSpec; must be given
    options: dict = {}      # parameter -> key of ModelSpec; may be given
    fixed: dict = {}        # parameter -> the one value ours has; must be given
    assumed: dict = {}      # parameter -> the one value ours has; may be given
    # parameters that do not change what is computed, or are read by `read_reference` itself
    free: tuple = ()
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
_KL = Rule(fields={"embed_dim": "vae.z_channels"}, parts={"ddconfig": None},
           free=("monitor", "lossconfig", "ckpt_path"))
_SAMPLER = Rule(
    options={"num_steps": "sampling.steps"}, free=("device", "verbose"),
    assumed={"s_churn": 0.0, "s_tmin": 0.0, "s_noise": 1.0},
    extras={"discretization_config": ("EDMDiscretization",),
            "guider_config": ("LinearPredictionGuider", "TrianglePredictionGuider",
                              "TrapezoidPredictionGuider", "VanillaCFG")})
_GUIDER = Rule(
    fields={"max_scale": "sampling.max_scale"}, free=("additional_cond_keys",),
    options={"min_scale": "sampling.min_scale", "num_frames": "num_frames"},
    sets={"sampling.min_scale": 1.0})


def _guider(name, **assumed):
    return _GUIDER._replace(sets={**_GUIDER.sets, "sampling.guidance": name}, assumed=assumed)


RULES = {
    "DiffusionEngine": Rule(
        options={"scale_factor": "vae.scale_factor"},
        parts={"network_config": ("VideoUNet",), "conditioner_config": ("GeneralConditioner",),
               "first_stage_config": ("AutoencodingEngine", "AutoencoderKL")},
        extras={"denoiser_config": ("Denoiser",),
                "sampler_config": ("EulerEDMSampler", "HeunEDMSampler", "DPMPP2MSampler")},
        free=("disable_first_stage_autocast", "ckpt_path", "input_key", "log_keys", "no_cond_log",
              "compile_model", "en_and_decode_n_samples_a_time", "use_ema", "ema_decay_rate",
              "optimizer_config", "scheduler_config", "loss_fn_config", "network_wrapper")),
    "Denoiser": Rule(parts={"scaling_config": ("VScalingWithEDMcNoise",)}),
    "VScalingWithEDMcNoise": Rule(),
    "VideoUNet": Rule(
        fields={**_same("unet", "in_channels", "out_channels", "model_channels", "channel_mult",
                        "num_res_blocks", "attention_resolutions", "num_head_channels",
                        "context_dim"), "adm_in_channels": "adm"},
        fixed={"num_classes": "sequential", "use_linear_in_transformer": True,
               "extra_ff_mix_layer": True, "use_spatial_context": True,
               "merge_strategy": "learned_with_images", "video_kernel_size": [3, 1, 1]},
        assumed={
            "transformer_depth": 1, "dropout": 0.0, "conv_resample": True, "dims": 2,
            "num_heads": -1, "num_heads_upsample": -1, "use_scale_shift_norm": False,
            "resblock_updown": False, "merge_factor": 0.5, "time_context_dim": None,
            "disable_temporal_crossattention": False, "max_ddpm_temb_period": 10000
        }, free=("use_checkpoint", "spatial_transformer_attn_type")),
    "GeneralConditioner": Rule(free=("emb_models",)),
    "FrozenOpenCLIPImagePredictionEmbedder": Rule(
        parts={"open_clip_embedding_config": ("FrozenOpenCLIPImageEmbedder",)},
        assumed={"n_cond_frames": 1}, free=("n_copies",)),
    "FrozenOpenCLIPImageEmbedder": Rule(
        options={"arch": "clip"}, sets={"clip": "ViT-H-14"},
        free=("freeze", "version", "device", "init_device"), assumed={
            "antialias": True, "ucg_rate": 0.0, "unsqueeze_dim": False, "output_tokens": False,
            "num_image_crops": 0, "repeat_to_max_len": False
        }),
    "VideoPredictionEmbedderWithEncoder": Rule(
        parts={"encoder_config": ("AutoencoderKLModeOnly",)}, fixed={"is_ae": True},
        assumed={"n_cond_frames": 1, "scale_factor": 1.0},
        free=("n_copies", "disable_encoder_autocast", "en_and_decode_n_samples_a_time")),
    "ConcatTimestepEmbedderND": Rule(fields={"outdim": "outdim"}),
    "AutoencoderKLModeOnly": _KL,
    "AutoencoderKL": _KL._replace(sets={"vae.decoder": "image", "vae.post_quant_conv": True}),
    "AutoencodingEngine": Rule(parts={"decoder_config": ("Decoder", "VideoDecoder")},
                               extras={"encoder_config": ("Encoder", "Identity")},
                               free=("loss_config", "regularizer_config", "monitor", "ckpt_path"),
                               sets={"vae.post_quant_conv": False}),
    "ddconfig": _VAE,
    "Encoder": _VAE,
    "Decoder": _VAE._replace(sets={"vae.decoder": "image"}),
    "VideoDecoder": _VAE._replace(
        sets={"vae.decoder": "temporal"}, fixed={**_VAE.fixed, "video_kernel_size": [3, 1, 1]},
        assumed={
            **_VAE.assumed, "time_mode": "conv-only", "merge_strategy": "learned", "alpha": 0.0
        }),
    "Identity": Rule(),
    "EulerEDMSampler": _SAMPLER._replace(sets={"sampling.sampler": "euler"}),
    "HeunEDMSampler": _SAMPLER._replace(sets={"sampling.sampler": "heun"}),
    "DPMPP2MSampler": _SAMPLER._replace(sets={"sampling.sampler": "dpmpp2m"}, assumed={}),
    "EDMDiscretization": Rule(options=_same("sampling", "sigma_min", "sigma_max", "rho")),
    "LinearPredictionGuider": _guider("linear"),
    "TrianglePredictionGuider": _guider("triangle", period=1.0, period_fusing="max"),
    "TrapezoidPredictionGuider": _guider("trapezoid", edge_perc=0.1),
    "VanillaCFG": Rule(fields={"scale": "sampling.max_scale"},
                       sets={"sampling.guidance": "constant"}),
}
EMBEDDER_CLASSES = {
    "cond_frames_without_noise": "FrozenOpenCLIPImagePredictionEmbedder",
    "cond_frames": "VideoPredictionEmbedderWithEncoder",
}


def read_reference(mapping, path):
    """Return the ModelSpec that a configuration in the original's form describes.

    `mapping`: the document, with a top-level ``model``; `path` names it in errors and gives the
    spec its name. What the original leaves to its script (frames, size, steps, noise on the
    condition image) is that of the published model to which the file's name, its `ckpt_path` or
    else its embedders point. Raises ConfigError.
    """
    reader = _Reader(path)
    model = mapping["model"]
    reader.part(model, "model", ("DiffusionEngine",), free=("base_learning_rate",))
    conditioner = model["params"]["conditioner_config"]
    reader.embedders((conditioner.get("params") or {}).get("emb_models"),
                     "model.params.conditioner_config.params")
    values = reader.values
    widths = values.pop("adm")
    if "clip" in values:
        tower = reader.choose(values["clip"], ARCHS, "open_clip_embedding_config.params.arch")
        values["clip"] = vars(tower)
    if values.get("sampling.guidance") == "constant":
        values["sampling.min_scale"] = values["sampling.max_scale"]
    spec = build(_published(values["condition.embedders"], path, model["params"].get("ckpt_path")),
                 values, path)
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

    def require(self, good, where, found, expected):
        """Raise ConfigError that names the file and the place in it, unless `good`."""
        require(good, f"{self.path}: {where}", found, expected)

    def put(self, key, value, where):
        """Note a value under a key of ModelSpec. Raises ConfigError if it has another one."""
        known = self.values.setdefault(key, value)
        self.require(known == value, f"{where}: {key}", value,
                     f"{shown(known)} as in the other parts of this file")

    def choose(self, name, table, where):
        """Return the entry of `table` under `name`. Raises ConfigError if there is none."""
        known = isinstance(name, str) and name in table
        self.require(known, where, name, f"one of {', '.join(table)}")
        return table[name]

    def part(self, node, where, classes, free=()):
        """Read one ``{target, params}`` node that may name the given classes."""
        has_target = isinstance(node, dict) and "target" in node
        self.require(has_target, where, node, "target: and params:")
        target = node["target"]
        tail = str(target).rpartition(".")[2]
        if tail not in classes:
            raise ConfigError(f"{self.path}: {where}.target: found {target}, expected a class path"
                              f" that ends in one of {', '.join(classes)}")
        for key in node.keys() - {"target", "params", *free}:
            raise ConfigError(f"{self.path}: {where}.{key}: unknown key, expected target: and"
                              " params:")
        self.params(node.get("params"), f"{where}.params", RULES[tail])

    def params(self, params, where, rule):
        """Read the parameters of a class by its rule."""
        params = {} if params is None else params
        self.require(isinstance(params, dict), where, params, "a mapping")
        for name in (*rule.fields, *rule.fixed, *rule.parts):
            self.require(name in params, f"{where}.{name}", None, "this key")
        keys, only = rule.fields | rule.options, rule.fixed | rule.assumed
        parts = rule.parts | rule.extras
        given = dict(rule.sets)
        for name, value in params.items():
            key = f"{where}.{name}"
            if name in keys:
                given[keys[name]] = value
            elif name in only:
                self.require(value == only[name], key, value,
                             f"{shown(only[name])}, the only form this network has")
            elif name in parts and parts[name] is None:
                self.params(value, key, RULES[name])
            elif name in parts:
                self.part(value, key, parts[name])
            elif name not in rule.free:
                near = difflib.get_close_matches(str(name), [*keys, *only, *parts, *rule.free], 1)
                hint = f"; the nearest known one is {near[0]}" if near else ""
                raise ConfigError(f"{self.path}: {key}: unknown parameter, found"
                                  f" {shown(value)}{hint}")
        for key, value in given.items():
            self.put(key, value, where)

    def embedders(self, models, where):
        """Read the list of embedders.

        Their order is that of the vector condition and of the published keys.
        """
        self.require(isinstance(models, list) and all(isinstance(model, dict) for model in models),
                     f"{where}.emb_models", models, "a list of embedders")
        names = []
        for index, model in enumerate(models):
            name, key = model.get("input_key"), f"{where}.emb_models.{index}"
            self.require(isinstance(name, str), f"{key}.input_key", name, "a name")
            self.part(model, key, (EMBEDDER_CLASSES.get(name, "ConcatTimestepEmbedderND"),),
                      free=("input_key", "is_trainable", "ucg_rate", "legacy_ucg_value"))
            if "outdim" in self.values:
                width = "condition.angle_dim" if name in ANGLES else "condition.scalar_dim"
                self.put(width, self.values.pop("outdim"), key)
            names.append(name)
        self.values["condition.embedders"] = names


def _published(embedders, path, checkpoint):
    """Return the published model that a file is a form of, or else the one with its embedders.

    It is found by the longest name with which the file's name or its checkpoint's starts.
    """
    orbit_model = "sv3d_p" if "polars_rad" in embedders else "sv3d_u"
    by_embedders = "svd" if "fps_id" in embedders else orbit_model
    stems = [Path(str(candidate or "")).stem for candidate in (path, checkpoint)]
    names = [
        name for stem in stems for name in sorted(known_configs("sampling"), key=len, reverse=True)
        if stem.startswith(name)
    ]
    return load_yaml(ModelSpec, find_config((names + [by_embedders])[0], "sampling"))
