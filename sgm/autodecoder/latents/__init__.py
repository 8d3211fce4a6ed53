"""Diffusion of latents: denoiser, normalization, conditions and sampling."""
