"""Masked score distillation: what no view shows is learned from a diffusion model of orbits.

SV3D (Voleti et al. 2024, arXiv 2403.12008), section 4.1, in the form that its authors run: views of
a random orbit that ends on the input view are rendered, encoded, noised at one level, denoised in
one guided evaluation and decoded, all without gradient. The surface is then to render as these
pictures: 1/2 sum |m (picture - render)|^2 / T, where m is small where a view sees the surface well.
In the latent form (Poole et al. 2022, arXiv 2209.14988, with the weight 1 of the clean estimate)
1/2 sum m |estimate - z|^2 of latents z is compared, which takes the gradient of the encoder.
"""
