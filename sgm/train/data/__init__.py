"""Training data: packed sets, orbit folders, Objaverse renders and videos, encoded once or each step.

`open_data` is the door; `read_clips` gives what it reads before it is encoded, as the autoencoder's training wants it.
"""
from sgm.config.recipe import DataSettings
from sgm.train.data.clips import Clips, DataError, Memo
from sgm.train.data.examples import shuffled, view_order
from sgm.train.data.latents import LatentClips, PixelClips
from sgm.train.data.packed import PackedOrbits
from sgm.train.data.sources import cache_memo, open_data, read_clips

__all__ = ["Clips", "DataError", "DataSettings", "LatentClips", "Memo", "PackedOrbits", "PixelClips",
           "cache_memo", "open_data", "read_clips", "shuffled", "view_order"]
