"""benchmarks/scale.py: what it says of rows that are there, and that it goes on where it stopped."""
import json

import numpy as np
import pytest
import scale

ROWS = [{"image": f"{k:03d}_23", "session": 1 + (k > 4), "seconds": seconds, "resident_mb": 900.0 + k, "own_mb": 700.0}
        for k, seconds in enumerate([30.0, 2.0, 2.2, 2.4, 2.6, 31.0, 2.8, 3.0, 3.2])]


def test_images_that_compile_are_left_out():
    """The first one of each session; quarters of the seven others have one image each."""
    said = scale.text({"images": ROWS}).splitlines()
    assert said[2:] == ["| first quarter (1) | 2.00 | 901, 700 |", "| last quarter (1) | 3.20 | 908, 700 |"]


def test_what_is_not_measured_is_not_shown():
    assert scale.text({}) == "" and scale.figure({}) is None and scale.figure({"images": ROWS[:1]}) is None


def test_a_curve_is_where_its_values_are():
    """Two points at the left and the right edge: 0, and the most, which is at 1 / 1.1 of the height."""
    picture = scale.panel("title", [1, 5], [("a", [0.0, 4.0]), ("b", [1.0, 0.0])], width=640, height=300)
    top, bottom = 50, 260
    most = round(bottom - (bottom - top) / 1.1)
    blue, orange = ((picture == color).all(-1) for color in (scale.BLUE, scale.ORANGE))
    assert blue[bottom, 60] and blue[most, 580] and orange[most, 60] and orange[bottom, 580]


def test_it_goes_on(tmp_path, monkeypatch, capsys):
    """The second run makes only the sizes that the first one did not reach."""
    made = []

    def watched(flags, output, appeared):
        made.append(flags[flags.index("--num-frames") + 1])
        if len(made) == 2:
            raise KeyboardInterrupt
        (output / "001_23").mkdir(parents=True)
        stages = {name: {"seconds": 1.5, "peak_gb": 1} for name in ("condition", "sample", "decode")}
        (output / "001_23" / "run.json").write_text(json.dumps({"stages": stages}))
        return 512.0
    monkeypatch.setattr(scale, "watched", watched)
    argv = ["sizes", "--few", "--work", str(tmp_path), "--quiet"]
    assert scale.run(argv) == 130 and scale.run(argv) == 0 and scale.run(argv) == 0
    assert made == [3, 7, 7]
    found = json.loads((tmp_path / "scale.json").read_text())
    assert list(found["sizes"]) == ["3 128 7", "7 128 7"] and found["sizes"]["7 128 7"]["own_mb"] == 512
    assert capsys.readouterr().out.endswith("| 7 128 7 | 1.5, 1.5, 1.5 | 512 |\n") and (tmp_path / "scale.png").exists()


def test_a_file_of_another_program(tmp_path, capsys):
    (tmp_path / "scale.json").write_text("[1]")
    assert scale.run(["images", "--work", str(tmp_path)]) == 2
    assert "scale.json: found no results of scale.py" in capsys.readouterr().err


def test_a_command_that_fails_is_one_line(tmp_path):
    with pytest.raises(scale.InputError, match="exit code 2: .*nowhere.png: no such file"):
        scale.watched(["--image", "nowhere.png"], tmp_path, None)


def test_pictures_have_several_sizes(tmp_path):
    folder = scale.pictures(tmp_path / "a", 2)
    shapes = [scale.cv2.imread(str(file)).shape for file in sorted(folder.iterdir())]
    assert shapes == [(160, 160, 3), (256, 256, 3)] and not np.array_equal(*(folder / f"{k:03d}.png" for k in range(2)))
