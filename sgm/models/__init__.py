"""The diffusion networks, under the published names of their parameters."""
