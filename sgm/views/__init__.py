"""Pictures with cameras: reading, matting, preprocessing, the views folder. No MindSpore."""
