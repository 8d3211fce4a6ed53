"""Notes of two runs are compared."""
from sgm.common.records import described, differing


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
