"""benchmarks/elevation.py: whose elevations are compared with what."""
import elevation
import numpy as np
import pytest
from support.badfiles import object_on_white
from support.small_lrm import write_balls


class Model:
    """An estimator that says 20 degrees of everything."""

    def elevation_of(self, picture):
        assert np.shape(picture)[-1] == 4
        return 20.0


def test_table(tmp_path, monkeypatch, capsys):
    """Of sets the last view; of pictures each."""
    monkeypatch.setattr(elevation, "load_lrm", lambda *given: Model())
    data = write_balls(tmp_path / "balls")
    elevations = np.load(data / "elevations.npy")
    elevations[1, -1] = 5
    np.save(data / "elevations.npy", elevations)
    object_on_white().save(tmp_path / "cup.png")
    assert elevation.main([str(data), "--image", f"{tmp_path / 'cup.png'}=12.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # the balls' last views are at 25 and 5 degrees
    assert lines[0].endswith("balls: 2 inputs from 5 to 25 degrees, mean absolute error 10.0, mean +5.0, largest 15.0; always their mean: 10.0")
    assert "1 inputs" in lines[1] and "mean absolute error 7.5" in lines[1] and lines[2].endswith("cup.png: 20.0, known 12.5")


@pytest.mark.parametrize("text", ["cup.png", "cup.png=high", "=3", "cup.png=91", "cup.png=nan"])
def test_pictures_without_an_elevation(text):
    with pytest.raises(elevation.argparse.ArgumentTypeError, match="expected FILE=DEGREES"):
        elevation.known(text)
