"""Contact sheets."""
import numpy as np

from sgm.views import media


def test_contact_sheet():
    frames = np.stack([np.full((2, 3, 3), k, np.uint8) for k in range(5)])
    sheet = np.asarray(media.contact_sheet(frames, 3))
    assert sheet.shape == (4, 9, 3)
    np.testing.assert_array_equal(sheet[0, ::3, 0], [0, 1, 2])
    np.testing.assert_array_equal(sheet[2, ::3, 0], [3, 4, 255])
    assert media.contact_sheet(np.zeros((2, 4, 4, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)
