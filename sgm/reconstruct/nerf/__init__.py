"""The radiance field and the depth it gives."""
