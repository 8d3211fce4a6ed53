"""The folder layout of Hugging Face diffusers."""
