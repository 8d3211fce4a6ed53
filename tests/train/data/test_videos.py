"""Videos: which frames a clip has, how fast it is, how much it moves; what cannot be used."""
import cv2
import numpy as np
import pytest
from PIL import Image
from support.making_data import small_spec, write_film

from sgm.train.data import DataError, DataSettings, Memo, read_clips
from sgm.train.data.motion import motion_bucket, read_table
from sgm.train.data.videos import read_video

COUNT = 4


def numbered(count, height=48, width=64):
    """Frames whose grey level is ten times their number."""
    return np.repeat(10 * np.arange(count, dtype=np.uint8), height * width * 3).reshape(count, height, width, 3)


def numbers(frames):
    """Which of `numbered` frames (T, 3, H, W) are."""
    return np.round((frames.mean((1, 2, 3)) + 1) * 127.5 / 10).astype(int).tolist()


def read(path, stride=1, size=(32, 32), memo=None):
    return read_video(path, COUNT, size, stride, memo or Memo())


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
def test_frames_of_a_file(suffix, tmp_path):
    """As many clips as fit, one after another; every frame is the one that its number says."""
    path = write_film(tmp_path / f"film{suffix}", numbered(14), fps=10)
    clips = read(path)
    assert [clip.start for clip in clips] == [0, 4, 8] and all(clip.fps == pytest.approx(10, rel=0.01) for clip in clips)
    assert [numbers(clip.frames()) for clip in clips] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert clips[1].frames([2, 0]).shape == (2, 3, 32, 32) and numbers(clips[1].frames([2, 0])) == [6, 4]
    clips = read(path, stride=3)
    assert [clip.start for clip in clips] == [0] and clips[0].fps == pytest.approx(10 / 3, rel=0.01)
    assert numbers(clips[0].frames()) == [0, 3, 6, 9]
    assert clips[0].angles is None


def test_a_folder_of_frames(tmp_path):
    (tmp_path / "walk").mkdir()
    for k, frame in enumerate(numbered(9)):
        Image.fromarray(frame).save(tmp_path / "walk" / f"{k:04d}.jpg")
    clips = read(tmp_path / "walk", stride=2)
    assert len(clips) == 1 and clips[0].fps == 3.5 and numbers(clips[0].frames()) == [0, 2, 4, 6]
    assert [numbers(clip.frames([1, 3])) for clip in read(tmp_path / "walk")] == [[1, 3], [5, 7]]


def test_frames_without_leading_zeros(tmp_path):
    for k, frame in enumerate(numbered(12)):
        Image.fromarray(frame).save(tmp_path / f"frame_{k + 1}.png")
    (clip,) = read_video(tmp_path, 12, (32, 32), 1, Memo())
    assert numbers(clip.frames()) == list(range(12))


@pytest.mark.parametrize("kind", ["mp4", "folder"])
def test_frames_cover_the_size(kind, tmp_path):
    """The middle of a wide film, scaled without distortion: left and right quarters are cut off."""
    film = np.full((COUNT, 32, 64, 3), 128, np.uint8)
    film[:, :, :14], film[:, :, 50:] = 0, 255
    if kind == "mp4":
        path = write_film(tmp_path / "film.mp4", film)
    else:
        path = tmp_path / "film"
        path.mkdir()
        for k in range(COUNT):
            Image.fromarray(film[k]).save(path / f"{k}.png")
    frames = read(path, size=(16, 16))[0].frames()
    assert frames.shape == (COUNT, 3, 16, 16) and np.abs(frames[:, :, :, 1:-1]).max() < 0.1


def moving(pixels, count=5, side=64):
    """Frames (T, 3, S, S) of a soft texture that moves by `pixels` to the right each frame."""
    texture = cv2.GaussianBlur(np.random.RandomState(0).rand(side, 2 * side).astype(np.float32), (0, 0), 3)
    texture = (texture - texture.min()) / (texture.max() - texture.min()) * 2 - 1
    rows = [cv2.warpAffine(texture, np.float32([[1, 0, pixels * k - side / 2], [0, 1, 0]]), (side, side))
            for k in range(count)]
    return np.repeat(np.stack(rows)[:, None], 3, 1)


@pytest.mark.parametrize("pixels", [0.0, 0.2, 0.64, 1.0])
def test_motion_bucket(pixels):
    """A motion of 1 % of the width per frame is bucket 127.5."""
    assert motion_bucket(moving(pixels)) == pytest.approx(127.5 * pixels / 0.64, rel=0.12, abs=1)


def test_motion_bucket_of_large_frames_and_its_limits():
    large = np.stack([cv2.resize(frame.transpose(1, 2, 0), (256, 256)).transpose(2, 0, 1) for frame in moving(0.64)])
    assert motion_bucket(large) == pytest.approx(127.5, rel=0.12)       # in units of the width: not of pixels
    assert motion_bucket(moving(6.0)) == 255 and motion_bucket(moving(1.0)[:1]) == 0


def test_the_table_goes_before(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_film(tmp_path / name, numbered(COUNT), fps=10)
    (tmp_path / "clips.csv").write_text("file,fps,motion_bucket\na.mp4,24,200\nb.mp4,,33.5\n")
    first, second = read(tmp_path / "a.mp4")[0], read(tmp_path / "b.mp4", stride=1)[0]
    assert (first.fps, first.motion) == (24, 200) and (second.fps, second.motion) == (10, 33.5)
    (tmp_path / "clips.csv").write_text("file,fps\na.mp4,24\n")
    assert read(tmp_path / "a.mp4")[0].motion is None


@pytest.mark.parametrize("text, said", [
    ("name,fps\na,1\n", "found the columns name, fps, expected file"), ("file\na\n", "expected file, and fps"), ("", "none"),
    ("file,fps\na.mp4,fast\n", "line 2: fps is 'fast'"),
    ("file,motion_bucket\na.mp4,5\nb.mp4,256\n", "line 3: motion_bucket"),
    ("file,fps\na.mp4,0\n", "line 2: fps is '0'"), ("file,fps\n,5\n", "line 2: has no file"),
    ("file,fps\na,5\n", "line 2: names a, which is not in"), ("file,fps\nA.MP4,5\n", "line 2: names A.MP4"),
    ("file,fps\na.mp4,5\nsub/b.mp4,5\n", "line 3: names sub/b.mp4, which is not in"),
    ("file,fps\na.mp4,29,97\n", "line 2: has more cells than there are columns"),
    ("file,fps\na.mp4,5\na.mp4,6\n", "line 3: names a.mp4, again")])
def test_tables_that_cannot_be_used(text, said, tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(DataError, match=said) as error:
        read_table(tmp_path)
    assert "clips.csv" in str(error.value) and "\n" not in str(error.value)


def test_columns_that_are_not_read_are_named(tmp_path, caplog):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "clips.csv").write_text("file,fps,stride\na.mp4,5,2\n")
    assert read_table(tmp_path) == {"a.mp4": {"fps": 5}} and "its columns stride are not read" in caplog.text


def test_table_of_files_in_other_folders(tmp_path):
    """It would be read for no film."""
    (tmp_path / "sub").mkdir()
    write_film(tmp_path / "sub" / "a.mp4", numbered(COUNT))
    (tmp_path / "clips.csv").write_text("file,fps\nsub/a.mp4,5\n")
    with pytest.raises(DataError, match="line 2: names sub/a.mp4, which is not in .* for the files next to it"):
        read_clips(settings(tmp_path), small_spec("svd"), Memo())
    (tmp_path / "clips.csv").rename(tmp_path / "sub" / "clips.csv")
    with pytest.raises(DataError, match="names sub/a.mp4"):
        read_clips(settings(tmp_path), small_spec("svd"), Memo())


def settings(*data, **more):
    return DataSettings(data=[str(path) for path in data], cache=False, **more)


@pytest.mark.parametrize("damage, said", [
    (lambda f: (f / "a.mp4").write_bytes(b"junk"), "ffmpeg cannot read it"),
    (lambda f: (f / "a.mp4").write_bytes(b""), "ffmpeg cannot read it"),
    (lambda f: (f / "a.mp4").write_bytes((f / "a.mp4").read_bytes()[:200]), "ffmpeg cannot read it"),
    (lambda f: write_film(f / "a.mp4", numbered(3)), "found 3 frames, expected at least 4"),
    (lambda f: (f / "a.mp4").unlink(), "a film|found 0 frames"),
    (lambda f: ((f / "a.mp4").unlink(), (f / "walk").mkdir()), "walk: found 0 frames")])
def test_films_that_cannot_be_used(damage, said, tmp_path):
    folder = tmp_path / "a film"
    folder.mkdir()
    write_film(folder / "a.mp4", numbered(5))
    damage(folder)
    with pytest.raises(DataError, match=said) as error:
        read_clips(settings(folder), small_spec("svd"), Memo())
    assert "\n" not in str(error.value)


def test_a_film_that_ends_early(tmp_path):
    """The number of its frames is remembered; what is missing shows when the clip is read."""
    path, memo = write_film(tmp_path / "a.mp4", numbered(8)), Memo()
    clip = read(path, memo=memo)[1]
    write_film(path, numbered(5))
    with pytest.raises(DataError, match="frames 4 to 7: 1 of 4 can be read"):
        clip.frames()


def test_films_are_found(tmp_path):
    """Files, folders of frames and folders of both, for a model of videos only; orbits are for the others."""
    spec = small_spec("svd")
    (tmp_path / "d" / "walk").mkdir(parents=True)
    write_film(tmp_path / "d" / "a.mp4", numbered(8))
    write_film(tmp_path / "d" / "b.gif", numbered(4))
    for k, frame in enumerate(numbered(4)):
        Image.fromarray(frame).save(tmp_path / "d" / "walk" / f"{k}.png")
    (clips, _), _ = read_clips(settings(tmp_path / "d"), spec, Memo())
    assert [clip.name.rsplit("/", 1)[1] for clip in clips.items] == ["a.mp4[0:]", "a.mp4[4:]", "b.gif[0:]", "walk[0:]"]
    (clips, _), _ = read_clips(settings(tmp_path / "d" / "*.mp4"), spec, Memo())
    assert len(clips) == 2
    with pytest.raises(DataError, match="transforms.json"):
        read_clips(settings(tmp_path / "d"), small_spec("sv3d_p"), Memo())
