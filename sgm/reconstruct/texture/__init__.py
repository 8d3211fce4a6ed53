"""The texture: visibility, charts, atlas, baking."""
