"""train.py, but that each clip takes a second longer to encode."""
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train  # noqa: E402
from sgm.train.data.latents import LatentClips  # noqa: E402

entry = LatentClips._entry


def slow(self, clip, frames):
    time.sleep(1)
    return entry(self, clip, frames)


LatentClips._entry = slow
if __name__ == "__main__":
    sys.exit(train.run())
