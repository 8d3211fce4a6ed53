"""AutoDecoding (arXiv 2307.05445): objects as embeddings, volumes, and diffusion of latents."""
