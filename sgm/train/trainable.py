"""Which parameters a recipe trains, and which its files hold, decided by their published names."""
from sgm.autodecoder.object_model import DENOISER
from sgm.checkpoints.lora_fusion import DOWN, UP
from sgm.checkpoints.original_keys import FIRST_STAGE, UNET, image_embedders
from sgm.config.recipe import OBJECT_TASKS

# Layers over frames, what mixes them in, and the embedding of the vector condition, through which
# poses come in.
ELEVATION = "elevation_head."
TEMPORAL = ("time_stack.", "time_mixer.", "time_pos_embed.", "label_emb.")


def is_trained(recipe, spec, name):
    """Return whether this recipe trains the parameter of that name, for a model of this spec."""
    if recipe.task in ("feedforward", "elevation"):
        return name.startswith(ELEVATION) == (recipe.task == "elevation")
    if recipe.task in OBJECT_TASKS:
        return name.startswith(DENOISER) == (recipe.task == "latent_diffusion")
    if recipe.task == "autoencoder":
        encoder = image_embedders(spec)[1]
        return name.startswith(FIRST_STAGE) or recipe.trains == "all" and name.startswith(encoder)
    if recipe.task == "decoder":
        return name.startswith(FIRST_STAGE)
    if not name.startswith(UNET) or recipe.trains == "all":
        return name.startswith(UNET)
    if recipe.trains == "lora":
        return name.endswith((DOWN, UP))
    return any(part in name for part in TEMPORAL)


def is_kept(recipe, spec, name):
    """Return whether a checkpoint holds it.

    The checkpoint of a LoRA holds only that, the checkpoint of an autoencoder's training all but
    the UNet.
    """
    if recipe.trains == "lora":
        return is_trained(recipe, spec, name)
    return recipe.task != "autoencoder" or not name.startswith(UNET)
