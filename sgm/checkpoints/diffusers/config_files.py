"""The JSON files of a Hugging Face diffusers folder, from a ModelSpec.

Field for field they are what diffusers writes for the published SVD
(`tests/golden/manifests/diffusers_svd_*.config.json`); SV3D, which diffusers has no pipeline for,
has the same form. diffusers' UNet and temporal decoder have 32 groups in every norm and no field
for another number: such a model's is in norm_num_groups, which this program reads.
"""
from sgm.config.model import GROUPS

DIFFUSERS_VERSION = "0.42.1"    # the version that loaded them in tests/parity
PIPELINE = {"feature_extractor": ("transformers", "CLIPImageProcessor"),
            "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
            "scheduler": ("diffusers", "EulerDiscreteScheduler"),
            "unet": ("diffusers", "UNetSpatioTemporalConditionModel")}
NORM_GROUPS = "norm_num_groups"     # GROUPS where a file does not say
# What the shapes of the weights do not show: {part: its fields}.
BEYOND_SHAPES = {"unet": ("num_attention_heads", "addition_time_embed_dim", NORM_GROUPS),
                 "vae": ("scaling_factor", NORM_GROUPS),
                 "image_encoder": ("num_attention_heads", "hidden_act", "image_size")}


def config_files(spec):
    """Return {path in the folder: contents} of a model."""
    vae = _vae(spec.vae)
    index = {"_class_name": "StableVideoDiffusionPipeline",
             **{name: list(kind) for name, kind in PIPELINE.items()},
             "vae": ["diffusers", vae["_class_name"]]}
    files = {"model_index.json": index, "unet/config.json": _unet(spec), "vae/config.json": vae,
             "scheduler/scheduler_config.json": _scheduler(spec.sampling)}
    for contents in files.values():
        contents["_diffusers_version"] = DIFFUSERS_VERSION
    return {**files, "image_encoder/config.json": _image_encoder(spec.clip),
            "feature_extractor/preprocessor_config.json": _feature_extractor(spec.clip)}


def _unet(spec):
    unet = spec.unet
    widths = [unet.model_channels * multiple for multiple in unet.channel_mult]
    attends = [2 ** level in unet.attention_resolutions for level in range(len(widths))]
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "sample_size": None, "in_channels": unet.in_channels, "out_channels": unet.out_channels,
        "down_block_types": ["CrossAttn" * yes + "DownBlockSpatioTemporal" for yes in attends],
        "up_block_types": ["CrossAttn" * yes + "UpBlockSpatioTemporal" for yes in attends[::-1]],
        "block_out_channels": widths, "addition_time_embed_dim": spec.condition.scalar_dim,
        "projection_class_embeddings_input_dim": sum(spec.vector_widths.values()),
        "layers_per_block": unet.num_res_blocks, "cross_attention_dim": unet.context_dim,
        "transformer_layers_per_block": 1,
        "num_attention_heads": [width // unet.num_head_channels for width in widths],
        "num_frames": spec.num_frames, **_groups(unet)}


def _groups(part):
    """Return the field for another number of groups than diffusers' networks have."""
    return {} if part.norm_groups == GROUPS else {NORM_GROUPS: part.norm_groups}


def _vae(vae):
    levels = len(vae.ch_mult)
    common = {
        "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"] * levels,
        "block_out_channels": [vae.ch * multiple for multiple in vae.ch_mult],
        "layers_per_block": vae.num_res_blocks, "latent_channels": vae.z_channels,
        "sample_size": 768, "scaling_factor": vae.scale_factor, "force_upcast": True}
    if vae.decoder == "image":
        return {"_class_name": "AutoencoderKL", **common,
                "up_block_types": ["UpDecoderBlock2D"] * levels,
                NORM_GROUPS: vae.norm_groups, "use_quant_conv": True,
                "use_post_quant_conv": vae.post_quant_conv}
    return {"_class_name": "AutoencoderKLTemporalDecoder", **common, **_groups(vae)}


def _image_encoder(clip):
    return {
        "architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model",
        "hidden_size": clip.width, "intermediate_size": 4 * clip.width,
        "projection_dim": clip.embed_dim, "num_hidden_layers": clip.layers,
        "num_attention_heads": clip.width // clip.head_width, "num_channels": 3,
        "image_size": clip.image_size, "patch_size": clip.patch_size, "hidden_act": "gelu",
        "layer_norm_eps": 1e-5, "attention_dropout": 0.0, "initializer_factor": 1.0,
        "initializer_range": 0.02}


def _feature_extractor(clip):
    """Return the preprocessor's file, of which the pipeline uses the normalization only."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
        "crop_size": {"height": clip.image_size, "width": clip.image_size}, "do_center_crop": True,
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3, "rescale_factor": 1 / 255, "size": {"shortest_edge": clip.image_size}}


def _scheduler(sampling):
    """Return the scheduler's file.

    With Karras' noise levels and the continuous timestep 0.25 ln sigma the betas have no effect.
    """
    return {
        "_class_name": "EulerDiscreteScheduler",
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "interpolation_type": "linear", "num_train_timesteps": 1000,
        "prediction_type": "v_prediction", "sigma_max": sampling.sigma_max,
        "sigma_min": sampling.sigma_min, "steps_offset": 1, "timestep_spacing": "leading",
        "timestep_type": "continuous", "trained_betas": None, "use_karras_sigmas": True}
