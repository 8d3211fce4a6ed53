"""Sources of a batch's latents: encoded once and kept, or encoded from pixels each step."""
import hashlib
import time

import numpy as np

from sgm.common.errors import InputError
from sgm.train.data.clips import Clips, DataError, SkippedClips, hash_of
from sgm.train.data.examples import Encoders, Examples
from sgm.train.data.latent_cache import LatentStore
from sgm.train.data.motion import motion_bucket

MANY = 64               # number of clips from which a progress bar is shown
PATIENCE = 1800  # seconds without a new entry from another process before waiting for it ends


class LatentClips(Examples):
    """Clips encoded once into `cache` (a folder or a LatentStore), then memory-mapped.

    The latents are drawn from their moments each time. An entry is (V, 2 z h w + D + 1): per view
    the posterior's mean and log variance, the CLIP token of views that may be the condition, and
    the clip's motion bucket. Its key hashes the images, the encoders' weights and the size, so a
    change of one of them encodes that clip again and nothing else. The engine's conditioner must
    hold its weights.

    progress(iterable, description) wraps the loops over clips. A clip that cannot be read is
    skipped and counted; raises DataError if too many are. rank, world_size: of several processes
    with the same arguments each encodes its share and waits for the others' through the file
    system, without any collective.
    """

    def __init__(self, clips, engine, cache, progress, condition="last", num_frames=None,
                 augment=(), cache_gb=50.0, encode_chunk=7, rank=0, world_size=1, skipped=None):
        super().__init__(clips, engine, condition, num_frames, augment)
        self.store = cache if isinstance(cache, LatentStore) else LatentStore(cache, cache_gb)
        self.skipped = skipped or SkippedClips()
        self.encoders = Encoders(engine, min(encode_chunk, clips.num_frames))
        found = len(clips) + len(self.skipped.reasons)
        keyed = self._keys(hash_weights(engine), progress)
        self._encode(keyed, progress, rank, world_size)
        for key, clip in keyed:
            if (reason := self.store.reason(key)) is not None:
                self.skipped.add(clip.name, reason)
        self.skipped.check(found)
        good = [(key, clip) for key, clip in keyed if clip.name not in self.skipped.reasons]
        self.keys = [key for key, _ in good]
        self.clips = Clips([clip for _, clip in good], (clips.height, clips.width))

    def _keys(self, weights, progress):
        """Return (key, clip) of every clip whose files are there."""
        clips = self.clips.items
        keyed = []
        if len(clips) > MANY and not self.store.memo.known:
            clips = progress(clips, "looking at clips")
        for clip in clips:
            try:
                digest = clip.digest(self.store.memo)
            except OSError as error:
                self.skipped.add(clip.name, f"{error.filename}: {error.strerror}")
                continue
            keyed.append((hash_of(weights, digest, self.clips.height, self.clips.width,
                                  self.condition), clip))
        return keyed

    def shape(self, clip):
        """Return the shape of a clip's entry."""
        moments = 2 * int(np.prod(self.latent_shape))
        return clip.num_views, moments + self.engine.spec.clip.embed_dim + 1

    def _encode(self, keyed, progress, rank, world_size):
        self.store.make_room([key for key, _ in keyed], [self.shape(clip) for _, clip in keyed])
        # Shares go by the place in the whole list: what is missing differs with the moment at which
        # a process looks. Copies are encoded once.
        missing = self._missing(keyed[rank::world_size])
        mine = list({key: (key, clip) for key, clip in missing}.values())
        for key, clip in progress(mine, "encoding clips") if mine else ():
            try:
                frames = clip.frames()
            except InputError as error:
                self.store.write_reason(key, str(error))
            else:
                self.store.write(key, self._entry(clip, frames))
        self._await([pair for k in range(world_size) if k != rank for pair in keyed[k::world_size]])

    def _missing(self, keyed):
        return [(key, clip) for key, clip in keyed
                if not self.store.has(key, self.shape(clip)) and self.store.reason(key) is None]

    def _await(self, others):
        """Wait for the entries that other processes make."""
        since = time.monotonic()
        while others:
            left = self._missing(others)
            if len(left) < len(others):
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise DataError(f"cache_folder {self.store.folder}: {len(left)} clips of other"
                                f" processes did not appear in {PATIENCE} seconds; all processes"
                                " must see the same folder. Start again to continue")
            others = left
            time.sleep(0.5 if left else 0)

    def _entry(self, clip, frames):
        mean, log_variance = self.encoders.moments(frames)
        entry = np.zeros(self.shape(clip), np.float32)
        half = mean[0].size
        entry[:, :half] = mean.reshape(len(mean), -1)
        entry[:, half:2 * half] = log_variance.reshape(len(mean), -1)
        views = {"any": range(len(frames)), "last": [len(frames) - 1], "first": [0]}[self.condition]
        entry[views, 2 * half:-1] = self.encoders.tokens(frames[views])[:, 0]
        if clip.angles is None:
            entry[:, -1] = motion_bucket(frames)
        return entry

    def load(self, rng, index, random_start, frames=0):
        """Return (Example, (mean, log variance, condition latent, condition token)) of a clip.

        mean and log variance (n, z, h, w) are those of its n views; the condition's latent is (z,
        h, w), its token (1, D).
        """
        example = self.pick(rng, index, random_start, frames)
        clip = self.clips[index]
        entry = self.store.read(self.keys[index], self.shape(clip))
        half = int(np.prod(self.latent_shape))
        rows = np.array(entry[example.views])
        mean, log_variance = (rows[:, k * half:(k + 1) * half].reshape(-1, *self.latent_shape)
                              for k in (0, 1))
        if clip.angles is None:
            estimated = float(rows[0, -1])
            example.values["motion_bucket_id"] = estimated if clip.motion is None else clip.motion
        seen = np.array(entry[example.condition])
        return example, (mean, log_variance, seen[:half].reshape(self.latent_shape),
                         seen[None, 2 * half:-1])


class PixelClips(Examples):
    """Clips encoded from pixels each step, without a cache.

    The engine's conditioner must hold its weights throughout. A clip that cannot be read is skipped
    with a warning, and the next one takes its place; which one follows from the data alone, so a
    resumed run sees the same. Raises DataError if too many are unreadable.
    """

    def __init__(self, clips, engine, condition="last", num_frames=None, augment=(), encode_chunk=7,
                 skipped=None):
        super().__init__(clips, engine, condition, num_frames, augment)
        self.encoders = Encoders(engine, min(encode_chunk, self.num_frames))
        self.skipped = skipped or SkippedClips()
        self.found = len(clips) + len(self.skipped.reasons)

    def load(self, rng, index, random_start, frames=0):
        """Return what `LatentClips.load` does."""
        for offset in range(len(self.clips)):
            example = self.pick(rng, (index + offset) % len(self.clips), random_start, frames)
            clip = self.clips[example.index]
            try:
                if clip.angles is None:
                    whole = clip.frames(np.arange(self.num_frames))
                    seen = whole[example.views]
                else:
                    seen = clip.frames(example.views)
                break
            except InputError as error:
                # The clip is tried again next time: a resumed run has to draw the same numbers.
                self.skipped.add(clip.name, error)
                self.skipped.check(self.found)
        mean, log_variance = self.encoders.moments(seen)
        at = int(np.flatnonzero(example.views == example.condition)[0])
        if clip.angles is None:  # the motion is that from frame to frame, whichever are seen
            known = clip.motion is not None
            example.values["motion_bucket_id"] = clip.motion if known else motion_bucket(whole)
        return example, (mean, log_variance, mean[at], self.encoders.tokens(seen[at:at + 1])[0])


def hash_weights(engine):
    """Return the hash of the image encoders' weights (CLIP and VAE)."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in engine.conditioner.parameters_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(parameter.asnumpy()))
    return digest.hexdigest()
