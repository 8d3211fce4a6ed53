"""benchmarks/data_engine.py: what is kept, what is refused, and what an arm is compared with."""
import data_engine
import pytest

from sgm.common.errors import InputError


@pytest.fixture
def called(monkeypatch):
    """The calls of our scripts, which leave their files."""
    calls = []

    def call(script, *words):
        words = list(map(str, words))
        calls.append((script, *words))
        out = data_engine.Path(words[words.index("--resume" if "--resume" in words else "--output" if "--output" in words else "--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / ("table.txt" if "feedforward" in script else "state.safetensors")).write_text("a table\n")

    monkeypatch.setattr(data_engine, "call", call)
    return calls


def flags(tmp_path, *more):
    return ["--true", "t", "--made", "m", "--val", "v", "--test", "w", "--out", str(tmp_path / "arms"), "--steps", "10", *more]


def test_what_is_there_is_kept(called, tmp_path, capsys):
    """A second run trains to the end what is trained and measures nothing again; the others are compared with the first arm."""
    arms = ("--arm", "made_then_true", "--arm", "true")
    assert data_engine.main(flags(tmp_path, *arms)) == 0
    out = tmp_path / "arms"
    assert [call[0] for call in called] == ["train.py", "benchmarks/feedforward.py", *["train.py"] * 2, "benchmarks/feedforward.py"]
    assert "steps=10" in called[0] and "steps=5" in called[2] and "steps=5" in called[3] and "--against" not in called[1]
    assert called[3][-1] == str(out / "made_then_true" / "part_0" / "averaged.safetensors")
    assert called[4][called[4].index("--against") + 1] == str(out / "true" / "measured")
    called.clear()
    capsys.readouterr()
    assert data_engine.main(flags(tmp_path, *arms)) == 0
    assert [call[:2] for call in called] == [("train.py", "--resume")] * 3
    assert capsys.readouterr().out.count("a table") == 2


def test_other_settings_are_refused(called, tmp_path):
    assert data_engine.main(flags(tmp_path, "--arm", "true")) == 0
    with pytest.raises(InputError, match=r"true: holds an arm trained otherwise \(part_0 .*steps=10.*, now .*steps=20"):
        data_engine.main(flags(tmp_path, "--arm", "true", "--steps", "20"))
    (tmp_path / "arms" / "true" / "arm.json").unlink()
    with pytest.raises(InputError, match="holds an arm trained otherwise"):
        data_engine.main(flags(tmp_path, "--arm", "true"))


def test_without_the_first_arm_it_is_said(called, tmp_path, capsys):
    """And measured again once it is there."""
    assert data_engine.main(flags(tmp_path, "--arm", "made")) == 0
    assert "made: no measured arm true in" in capsys.readouterr().out
    assert data_engine.main(flags(tmp_path, "--arm", "true", "--arm", "made")) == 0
    assert "--against" in called[-1] and sum(call[0] != "train.py" for call in called) == 3
