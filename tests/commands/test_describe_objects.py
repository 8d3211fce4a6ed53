"""tools/describe_objects.py: classes and tokens of the objects of a packed set, and what is refused."""
import describe_objects
import numpy as np
import pytest
from support.commands import ending
from support.small_autodecoder import CHANGES, write_objects

from sgm.config.autodecoding import load_autodecoder_spec
from sgm.render.procedural import kind_of, make_object
from sgm.train.objects.object_conditions import read_conditions


@pytest.fixture
def data(tmp_path):
    folder = write_objects(tmp_path / "set", side=64)
    np.save(folder / "names.npy", np.array(["000004", "000007", "000001"]))
    return folder


def spec_of(printed):
    """That of the settings which the command printed."""
    words = printed.split()
    return load_autodecoder_spec("autodecoder_small", [*CHANGES, *(
        value for flag, value in zip(words, words[1:]) if flag == "--model-set")])


@pytest.mark.parametrize("names", ["procedural", "classes.csv"])
def test_classes(names, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if names == "procedural":
        told = [kind_of(seed) for seed in (4, 7, 1)]
        assert len(set(told)) > 1
    else:
        told = ["b", "a", "b"]
        (tmp_path / names).write_text("class,name\na,000007\nb,000004\nb,000001\nc,other\n")
    assert describe_objects.run(["class", str(data), "--names", names, "--out", "out.safetensors"]) == 0
    spec = spec_of(capsys.readouterr().out)
    assert spec.diffusion.condition.labels == sorted(set(told))
    found = read_conditions("out.safetensors", spec)[:, 0, 0]
    assert [spec.diffusion.condition.labels[row.argmax()] for row in found] == told and (found.sum(1) == 1).all()


def test_kind_is_that_of_the_object():
    """Told by the meshes: every plane is lower, for its width, than every tower."""
    sizes = {}
    for seed in range(30):
        extent = np.ptp(make_object(seed).vertices, axis=0)
        sizes.setdefault(kind_of(seed), []).append(extent[2] / np.hypot(*extent[:2]))
    assert len(sizes) == 7 and max(sizes["plane"]) < min(sizes["tower"])


@pytest.mark.slow
def test_tokens_of_views(data, tmp_path, capsys):
    """Those of the embedded tower for the same views on white."""
    from sgm.autodecoder.latents.conditions import Tower
    out = tmp_path / "out.safetensors"
    assert describe_objects.run(["image", str(data), "--views", "2", "--out", str(out)]) == 0
    found = read_conditions(out, spec_of(capsys.readouterr().out))
    assert found.shape == (3, 2, 1, 128)
    views = np.load(data / "clips.npy")[1, [0, 5]].astype(np.float32) / 255
    white = views[..., :3] * views[..., 3:] + 1 - views[..., 3:]
    wanted = Tower("sv3d_tiny").tokens((2 * white - 1).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found[1], wanted, atol=0.02)


@pytest.mark.parametrize("text, said", [
    ("name,kind\n000004,a\n", "found the columns name, kind, expected name and class"),
    ("name,class\n000004,a\n000007,b\n", "found no class of 000001, expected one for each of the 3 objects"),
    ("", "found the columns none")])
def test_lists_that_do_not_fit(text, said, data, tmp_path, capsys):
    (tmp_path / "classes.csv").write_text(text)
    out = tmp_path / "out.safetensors"
    code, line = ending(describe_objects.run, ["class", str(data), "--names", str(tmp_path / "classes.csv"), "--out", str(out)],
                        capsys)
    assert code == 2 and said in line and not out.exists()
