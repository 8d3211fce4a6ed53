"""Notes of two runs are compared."""
import json

import pytest

from sgm.common.errors import InputError
from sgm.common.records import claim_folder, described, differing


def test_names_that_differ_are_dotted():
    before = {"a": 1, "b": {"c": [1, 2], "d": {"e": 1}}, "gone": None}
    now = {"a": 1, "b": {"c": [1, 2], "d": {"e": 2}, "f": 0}}
    assert differing(before, before) == []
    names = differing(before, now)
    assert names == ["b.d.e", "b.f"]            # nothing and None are the same
    assert described(names, before, now) == "b.d.e 1, now 2; b.f None, now 0"
    assert described(names, before, now, most=1) == "b.d.e 1, now 2; and 1 more"
    assert differing({"a": {"b": 1}}, {"a": 2}) == ["a"]


def test_long_values_are_shortened():
    text = described(["a"], {"a": list(range(99))}, {"a": "x" * 500})
    assert len(text) < 150 and text.startswith("a [0, 1, 2, 3, 4, 5, ...], now 'xxx")


def test_a_folder_has_one_kind_of_settings(tmp_path):
    folder, settings = tmp_path / "new" / "run", {"task": "one", "names": ("a", "b"), "size": 64}
    for _ in range(2):
        claim_folder(folder, settings, "--out")
    assert json.loads((folder / "settings.json").read_text()) == {"task": "one", "names": ["a", "b"], "size": 64}
    with pytest.raises(InputError, match=r"^--out .*run: was filled with other settings \(.*settings.json: size 64, now 32\); give"):
        claim_folder(folder, {**settings, "size": 32}, "--out")
    (folder / "settings.json").write_text("{")
    with pytest.raises(InputError, match="task None, now 'one'"):
        claim_folder(folder, settings, "--out")
