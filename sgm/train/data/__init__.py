"""Training data: packed sets, orbits, Objaverse renders and videos, encoded once or each step.

`open_data` is the entry point; `read_clips` returns the clips before they are encoded, as the
autoencoder's training takes them.
"""
from sgm.config.recipe import DataSettings
from sgm.train.data.clips import Clips, DataError, Memo
from sgm.train.data.examples import shuffled, view_order
from sgm.train.data.latents import LatentClips, PixelClips
from sgm.train.data.packed import PackedOrbits
from sgm.train.data.sources import cache_memo, find_data, open_data, read_clips

__all__ = [
    "Clips", "DataError", "DataSettings", "LatentClips", "Memo", "PackedOrbits", "PixelClips",
    "cache_memo", "find_data", "open_data", "read_clips", "shuffled", "view_order"
]
