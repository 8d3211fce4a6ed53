"""Files of conditions, and their share in batches of latents."""
import numpy as np
import pytest
from support.small_autodecoder import CHANGES

from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.common.errors import InputError
from sgm.config.autodecoding import load_autodecoder_spec
from sgm.config.recipe import Recipe
from sgm.train.objects.object_batches import LatentBatches
from sgm.train.objects.object_conditions import read_conditions, write_labels, write_tokens


def spec_of(*changes):
    return load_autodecoder_spec("autodecoder_small", [*CHANGES, *(f"diffusion.condition.{change}" for change in changes)])


CLASS, TEXT, IMAGE = ["kind=class", "labels=[tower, house]"], ["kind=text", "tokens=2", "width=4"], ["kind=image", "width=4"]


def test_labels_are_places(tmp_path):
    write_labels(tmp_path / "a.safetensors", [1, 0, 1], ["tower", "house"])
    found = read_conditions(tmp_path / "a.safetensors", spec_of(*CLASS))
    assert found.shape == (3, 1, 1, 2) and found[:, 0, 0].tolist() == [[0, 1], [1, 0], [0, 1]]


def test_tokens_stay_as_they_are(tmp_path):
    tokens = np.random.default_rng(0).standard_normal((3, 5, 2, 4)).astype(np.float32)
    write_tokens(tmp_path / "a.safetensors", tokens)
    assert (read_conditions(tmp_path / "a.safetensors", spec_of(*TEXT)) == tokens).all()


@pytest.mark.parametrize("write, changes, said", [
    (lambda path: write_labels(path, [1, 0], ["tower", "house"]), CLASS, "found labels of shape (2,), expected finite numbers of"
                                                                         " shape (3,)"),
    (lambda path: save_safetensors(path, {"labels": np.float32([1, 0, 1])}, {}), CLASS, "found labels of type float32, expected"
                                                                                        " int32"),
    (lambda path: write_labels(path, [1, 0, 1], ["tower", "house"], "other"), CLASS, "found those of other objects, expected"),
    (lambda path: write_labels(path, [1, 0, 2], ["tower", "house"]), CLASS, "found class 2, expected 0 to 1"),
    (lambda path: write_labels(path, [1, 0, 1], ["house", "tower"]), CLASS, "found the classes ['house', 'tower'], expected"),
    (lambda path: write_labels(path, [1, 0, 1], ["tower", "house"]), TEXT, "found no tokens"),
    (lambda path: write_tokens(path, np.zeros((3, 1, 1, 4))), TEXT, "found tokens of shape (3, 1, 1, 4), expected finite numbers"
                                                                    " of shape (3, any, 2, 4)"),
    (lambda path: write_tokens(path, np.full((3, 1, 2, 4), np.nan)), TEXT, "expected finite numbers"),
    (lambda path: write_tokens(path, np.zeros((3, 6, 1, 4)), "sv3d_u"), IMAGE, "found tokens of the tower of sv3d_u, expected"
                                                                               " sv3d_tiny")])
def test_files_that_do_not_fit(write, changes, said, tmp_path):
    write(tmp_path / "a.safetensors")
    with pytest.raises(InputError) as error:
        read_conditions(tmp_path / "a.safetensors", spec_of(*changes), "names")
    assert said in str(error.value)


def test_batches_have_the_conditions_of_their_objects():
    """One of each object's, a tenth of them zeroed; the noise is that of batches without."""
    recipe = Recipe(task="latent_diffusion", batch=4)
    latents = np.arange(12, dtype=np.float32)[:, None, None] * np.ones((1, 512, 1), np.float32)
    tokens = (1 + np.arange(12)[:, None, None, None] + np.arange(3)[:, None, None] / 10) * np.ones((1, 1, 2, 5), np.float32)
    with_tokens, without = LatentBatches(recipe, latents, tokens=np.float32(tokens), drop=0.1), LatentBatches(recipe, latents)
    zeroed, chosen = 0, set()
    for number in range(200):
        x, noise, sigma, told = with_tokens(number)
        assert all((a == b).all() for a, b in zip((x, noise, sigma), without(number)))
        told = told.reshape(4, 2, 5)
        for latent, token in zip(x.reshape(4, -1)[:, 0], told):
            assert (token == token[0, 0]).all()
            zeroed += token[0, 0] == 0
            assert token[0, 0] == 0 or int(token[0, 0]) == latent + 1
            chosen.add(round(float(token[0, 0]) % 1, 1))
    assert 0.07 < zeroed / 800 < 0.13 and chosen == {0.0, 0.1, 0.2}
