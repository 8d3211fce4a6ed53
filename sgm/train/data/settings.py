"""What a recipe says of its data."""
import math
from dataclasses import dataclass, field
from typing import List

from sgm.config import ConfigError

BACKGROUNDS = ("white", "random", "both")


@dataclass
class DataSettings:
    """The keys of a recipe that `sources` reads."""
    data: List[str] = field(default_factory=list)       # packed sets, orbit folders, Objaverse lists, videos; globs too
    val: List[str] = field(default_factory=list)    # the same, held out; else what val.txt in a folder of `data` names
    background: str = "white"       # of orbit folders: white, a random colour for each clip, or both (each orbit twice)
    condition: str = "any"          # which view of an orbit the network is shown: "any", or the "last" of the folder
    augment: List[float] = field(default_factory=list)  # [mean, std] of the ln of the condition image's noise; [] = none
    stride: int = 1                 # videos: every how manieth frame of a file is taken
    cache: bool = True              # encode each clip once; false: from pixels, each step
    cache_folder: str = ""          # of what is encoded; "" = "cache" beside the first of `data`
    cache_gb: float = 50.0          # most it may hold; what was used longest ago goes first
    encode_chunk: int = 7           # frames that the autoencoder encodes at once: lower it for want of memory

    def validate_data(self):
        """Raise ConfigError naming the first of these values that cannot be."""
        for name, choices in (("background", BACKGROUNDS), ("condition", ("any", "last"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}: found {getattr(self, name)!r}, expected {' or '.join(choices)}")
        if self.augment and (len(self.augment) != 2 or not all(map(math.isfinite, self.augment)) or self.augment[1] < 0):
            raise ConfigError(f"augment: found {self.augment}, expected [mean, std] of ln sigma as in [-3, 0.5], or []")
        for name, low, high in (("stride", 1, 1000), ("cache_gb", 1e-3, 1e6), ("encode_chunk", 1, 1000)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected {low:g} to {high:g}")
