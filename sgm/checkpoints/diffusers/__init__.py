"""Reading and writing of Hugging Face diffusers folders."""
