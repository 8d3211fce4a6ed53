"""Training of an autodecoder: stage 1 on views of objects, stage 2 on their latents."""
