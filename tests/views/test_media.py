"""Contact sheets, GIFs, videos of odd kinds."""
import struct

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from sgm.common.errors import InputError
from sgm.views import media
from sgm.views.images import composite


@pytest.mark.parametrize("fps, delay", [(60, 20), (1000, 20), (50, 20), (24, 40), (6, 170), (7, 140), (0.5, 2000),
                                        (1e-3, 655350)])
def test_gif_delays_are_whole_hundredths(fps, delay, tmp_path):
    frames = np.random.RandomState(0).randint(0, 255, (3, 8, 8, 3), np.uint8)
    media.write_gif(tmp_path / "a.gif", frames, fps)
    with Image.open(tmp_path / "a.gif") as image:
        for k in range(3):
            image.seek(k)
            assert image.info["duration"] == delay


def film(path, frames, codec, *options):
    """Encode RGBA frames, (T, H, W, 4), with alpha if the codec has it."""
    count, height, width, _ = frames.shape
    writer = media.imageio_ffmpeg.write_frames(
        str(path), (width, height), pix_fmt_in="rgba", pix_fmt_out=None, fps=8, codec=codec, quality=None,
        macro_block_size=1, output_params=list(options), ffmpeg_log_level="quiet")
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def moving_square(count=3):
    frames = np.zeros((count, 48, 64, 4), np.uint8)
    for k in range(count):
        frames[k, 12:36, 16 + k:48 + k] = 255, 0, 0, 255
        frames[k, 12:36, 16 + k:32 + k, 3] = 128
    return frames


@pytest.mark.parametrize("name, codec, options", [
    ("a.webm", "libvpx-vp9", ("-pix_fmt", "yuva420p")), ("b.webm", "libvpx", ("-pix_fmt", "yuva420p", "-auto-alt-ref", "0")),
    ("c.mov", "png", ("-pix_fmt", "rgba"))])
def test_transparent_films_are_put_on_white(name, codec, options, tmp_path):
    frames = moving_square()
    film(tmp_path / name, frames, codec, *options)
    found = media.read_video_frames(tmp_path / name, 1, 1, 2, (48, 64))
    expected = np.stack([composite(frame) for frame in frames[1:]])
    assert np.abs(found.astype(int) - expected)[:, 4:44, 4:16].max() <= 4           # the background
    assert np.abs(found.astype(int) - expected)[:, 16:32, 22:30].max() <= 12        # half transparent


def test_transparent_gif_is_put_on_white(tmp_path):
    pictures = [Image.fromarray(np.where(frame[..., 3:] > 0, frame | [0, 0, 0, 255], 0).astype(np.uint8))
                for frame in moving_square()]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    found = media.read_video_frames(tmp_path / "a.gif", 0, 1, 3, (48, 64))
    assert (found[:, 4, 4] == 255).all() and (found[:, 24, 30] == (255, 0, 0)).all()


def test_pixels_of_films_are_made_square(tmp_path):
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    frames[:, 8:24, 24:40] = 255            # as wide as high as stored, twice as wide as seen
    iio.imwrite(tmp_path / "a.mp4", frames, plugin="FFMPEG", fps=8, macro_block_size=2,
                output_params=["-vf", "setsar=2"])
    seen = media.read_video_frames(tmp_path / "a.mp4", 0, 1, 2, (32, 128))[0, ..., 0] > 127
    assert abs(seen.any(0).sum() - 32) <= 2 and abs(seen.any(1).sum() - 16) <= 1
    cropped = media.read_video_frames(tmp_path / "a.mp4", 0, 1, 2, (32, 32))[0, ..., 0] > 127
    assert abs(cropped.any(0).sum() - 32) <= 2 and abs(cropped.any(1).sum() - 16) <= 1


@pytest.mark.parametrize("transfer, warned", [(18, 1), (16, 1), (1, 0)])
def test_films_of_high_dynamic_range_are_warned_of(transfer, warned, tmp_path, caplog):
    iio.imwrite(tmp_path / "a.mp4", np.zeros((2, 32, 32, 3), np.uint8), plugin="FFMPEG", fps=8,
                output_params=["-bsf:v", f"h264_metadata=transfer_characteristics={transfer}"])
    media.probe_video(tmp_path / "a.mp4")
    assert ["a.mp4: its colors are those of" in record.message for record in caplog.records] == [True] * warned


def test_canvas_too_large_for_memory_is_refused(tmp_path):
    content = b"GIF89a" + (12000).to_bytes(2, "little") * 2 + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    frame = b"\x21\xf9\x04\0\x0a\0\0\0,\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    (tmp_path / "a.gif").write_bytes(content + 20 * frame + b";")
    with pytest.raises(InputError, match="a.gif: found 12000 x 12000 pixels, expected at most 16000000"):
        media.probe_video(tmp_path / "a.gif")


@pytest.mark.parametrize("content", ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
                                     "ffconcat version 1.0\nfile '{}'\n"])
def test_lists_of_other_files_are_not_followed(content, tmp_path):
    iio.imwrite(tmp_path / "real.mp4", np.zeros((2, 32, 32, 3), np.uint8), plugin="FFMPEG", fps=8)
    (tmp_path / "a.mp4").write_text(content.format(tmp_path / "real.mp4"))
    with pytest.raises(OSError):
        media.probe_video(tmp_path / "a.mp4")
    with pytest.raises(OSError):
        media.read_video_frames(tmp_path / "a.mp4", 0, 1, 2, (32, 32))


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
