"""Contact sheets."""
import struct

import imageio.v3 as iio
import numpy as np
import pytest

from sgm.views import media


def test_contact_sheet():
    frames = np.stack([np.full((2, 3, 3), k, np.uint8) for k in range(5)])
    sheet = np.asarray(media.contact_sheet(frames, 3))
    assert sheet.shape == (4, 9, 3)
    np.testing.assert_array_equal(sheet[0, ::3, 0], [0, 1, 2])
    np.testing.assert_array_equal(sheet[2, ::3, 0], [3, 4, 255])
    assert media.contact_sheet(np.zeros((2, 4, 4, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("side", [32, 33])
def test_video_is_tagged_and_starts_at_once(tmp_path, side):
    """Saturated colors come back by the tags; the index (moov) stands before the frames (mdat)."""
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 40, 40), (0, 0, 0), (255, 255, 255)]
    frames = np.stack([np.full((side, side, 3), color, np.uint8) for color in colors])
    assert media.write_video(tmp_path / "a.mp4", frames, 6)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    tags = data.index(b"colrnclx") + 8
    assert struct.unpack(">HHHB", data[tags:tags + 7]) == (1, 1, 1, 0)      # BT.709 thrice, limited range
    read = iio.imread(tmp_path / "a.mp4", plugin="FFMPEG", extension=".mp4")
    assert np.abs(read[:, 16, 16].astype(int) - colors).max() <= 2
