"""Packed sets that cannot be what the tool writes: one line each."""
from dataclasses import replace

import numpy as np
import pytest
from support.making_data import write_packed

from sgm.train.data import DataError, Memo, PackedOrbits


def save(name, change):
    """A damage: the array `name` becomes change(array)."""
    def damage(folder):
        np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))
    return damage


def with_value(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array
    return change


DAMAGES = {
    "channels first": (save("clips", lambda a: a.transpose(0, 1, 4, 2, 3)), "2 x 4 x 3 x 32 x 32", "RGBA last"),
    "gray": (save("clips", lambda a: a[..., :1]), "2 x 4 x 32 x 32 x 1", "RGB or RGBA last"),
    "one clip alone": (save("clips", lambda a: a[0]), "4 x 32 x 32 x 3", "5 axes"),
    "no clip": (save("clips", lambda a: a[:0]), "0 x 4", "no clip"),
    "float": (save("clips", lambda a: (a / 255).astype(np.float32)), "float32", "uint8"),
    "not square": (save("clips", lambda a: a[:, :, :16]), "2 x 4 x 16 x 32", "square"),
    "tiny": (save("clips", lambda a: a[:, :, :4, :4]), "4 x 4 x 3", "at least 8"),
    "one view": (save("clips", lambda a: a[:, :1]), "2 x 1 x", "at least 2"),
    "fewer azimuth rows": (save("azimuths", lambda a: a[:1]), "1 x 4", "2 x 4"),
    "fewer elevation columns": (save("elevations", lambda a: a[:, :3]), "2 x 3", "2 x 4"),
    "azimuths as text": (save("azimuths", lambda a: a.astype(str)), "azimuths.npy", "degrees"),
    "azimuth NaN": (save("azimuths", with_value((1, 2), np.nan)), "clip 1, view 2 has nan", "finite"),
    "azimuth infinite": (save("azimuths", with_value((0, 3), np.inf)), "clip 0, view 3 has inf", "finite"),
    "elevation NaN": (save("elevations", with_value((0, 0), np.nan)), "clip 0, view 0 has nan", "-90"),
    "elevation at the pole": (save("elevations", with_value((1, 0), -90)), "clip 1, view 0 has -90", "-90"),
    "zero bytes": (lambda folder: (folder / "clips.npy").write_bytes(b""), "not a finished packed set", "--pack"),
    "half a file": (lambda folder: (folder / "azimuths.npy").write_bytes((folder / "azimuths.npy").read_bytes()[:150]),
                    "not a finished packed set", "--pack"),
    "no npy": (lambda folder: (folder / "elevations.npy").write_text("hello"), "not a finished packed set", "--pack"),
    "pickled": (save("azimuths", lambda a: a.astype(object)), "not a finished packed set", "--pack"),
    "missing": (lambda folder: (folder / "azimuths.npy").unlink(), "azimuths.npy", "--pack"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_sets(damage, tmp_path):
    folder = write_packed(tmp_path / "set")
    change, found, expected = DAMAGES[damage]
    change(folder)
    with pytest.raises(DataError) as error:
        PackedOrbits([str(folder)])
    message = str(error.value)
    assert "\n" not in message and message.startswith("data: ") and str(folder) in message
    assert found in message and expected in message, message


def test_sets_of_other_sizes_are_named(tmp_path):
    first, second = write_packed(tmp_path / "a"), write_packed(tmp_path / "b", size=16)
    with pytest.raises(DataError, match="differ in frames or size .*a has 4 views of 32 pixels, .*b has 4 views of 16"):
        PackedOrbits([str(first), str(second)])
    assert len(PackedOrbits([str(first), str(second)], 16)) == 4       # the larger ones are shrunk
    with pytest.raises(DataError, match="b has views of 16 pixels, expected 32 or a multiple of it; render it with --size 32"):
        PackedOrbits([str(first), str(second)], 32)


def test_alpha_and_smaller_views(tmp_path):
    """A view is put on its background, then shrunk: 2 x 2 pixels of which one is half red, one is solid black."""
    folder = write_packed(tmp_path / "a", size=16)
    clips = np.zeros((2, 4, 16, 16, 4), np.uint8)
    clips[1, 2, 0, 0], clips[1, 2, 1, 1] = (255, 0, 0, 128), (0, 0, 0, 255)
    np.save(folder / "clips.npy", clips)
    clip = PackedOrbits([str(folder)], 8)[1]
    levels = [(255 + 2 * 255 + 0) / 4, (127 + 2 * 255 + 0) / 4, (127 + 2 * 255 + 0) / 4]
    np.testing.assert_allclose((clip.frames([2])[0, :, 0, 0] + 1) * 127.5, levels, atol=1e-3)
    on_blue = replace(clip, background=(0, 0, 255))
    levels = [128 / 4, 0, (127 + 2 * 255) / 4]
    np.testing.assert_allclose((on_blue.frames([2])[0, :, 0, 0] + 1) * 127.5, levels, atol=1e-3)
    digests = {each.digest(Memo()) for each in (clip, on_blue, replace(clip, size=16), PackedOrbits([str(folder)], 8)[0])}
    assert len(digests) == 4


def test_good_sets(tmp_path):
    """What the damages start from can be read, angles of other number kinds too."""
    folder = write_packed(tmp_path / "a")
    np.save(folder / "azimuths.npy", np.load(folder / "azimuths.npy").astype(np.int64))
    orbits = PackedOrbits([str(folder), str(write_packed(tmp_path / "b", seed=1))])
    assert (len(orbits), orbits.num_frames, orbits.size) == (4, 4, 32)
    assert orbits.orbit(3).azimuths_deg.tolist() == [90, 180, 270, 0]
    clips = np.load(tmp_path / "b" / "clips.npy")
    np.testing.assert_allclose(orbits.frames(3, [2])[0].transpose(1, 2, 0), clips[1, 2] / 127.5 - 1, atol=1e-6)
