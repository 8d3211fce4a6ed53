"""What a conditional denoiser is told, and what is refused."""
import numpy as np
import pytest

from sgm.autodecoder.latents.conditions import condition_of
from sgm.common.errors import InputError
from sgm.config.autodecoding import ConditionSpec

CLASS = ConditionSpec("class", ["tower", "house"])
TEXT = ConditionSpec("text", tokens=3, width=4)
NOTHING = ConditionSpec()


def test_class_is_its_place():
    assert condition_of(CLASS, label="house").tolist() == [[0, 1]]
    assert condition_of(CLASS) is None and condition_of(NOTHING) is None


def test_short_text_is_filled_up(tmp_path):
    tokens = np.arange(8.0).reshape(2, 4)
    np.save(tmp_path / "text.npy", tokens)
    found = condition_of(TEXT, text=tmp_path / "text.npy")
    assert (found[:2] == tokens).all() and (found[2] == 0).all() and found.dtype == np.float32


@pytest.mark.parametrize("spec, given, said", [
    (CLASS, {"label": "cup"}, "label: found cup, expected one of tower, house"),
    (CLASS, {"image": "cup.png"}, "image: found cup.png, expected label"),
    (NOTHING, {"label": "cup"}, "label: found cup, expected none"),
    (TEXT, {"text": "nowhere.npy"}, "text nowhere.npy: no such file; expected a .npy of 3 x 4 numbers")])
def test_what_the_model_was_not_trained_with(spec, given, said):
    with pytest.raises(InputError) as error:
        condition_of(spec, **given)
    assert said in str(error.value)


@pytest.mark.parametrize("array, said", [
    (np.zeros((4, 4)), "found shape (4, 4), expected (3, 4), or fewer tokens"),
    (np.zeros((2, 5)), "found shape (2, 5)"), (np.full((1, 4), np.nan), "found NaN or infinity")])
def test_text_that_does_not_fit(array, said, tmp_path):
    np.save(tmp_path / "text.npy", array)
    with pytest.raises(InputError) as error:
        condition_of(TEXT, text=tmp_path / "text.npy")
    assert said in str(error.value)


@pytest.mark.slow
def test_image_by_the_embedded_tower(photo):
    """Its token is that of the model of views for the same picture; a wrong width is named."""
    found = condition_of(ConditionSpec("image", width=128), image=photo)
    assert found.shape == (1, 128) and np.isfinite(found).all() and found.std() > 0.1
    with pytest.raises(InputError, match="tower makes tokens of 128 numbers, expected 64"):
        condition_of(ConditionSpec("image", width=64), image=photo)
