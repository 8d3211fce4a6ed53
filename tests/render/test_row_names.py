"""Rows of a set that show one object."""
import pytest

from sgm.render.sets.row_names import next_other, object_of, objects_of_rows


@pytest.mark.parametrize("name, expected", [
    ("Scopia-012", "Scopia-012"), ("Scopia-012-00", "Scopia-012"), ("Scopia-012-03", "Scopia-012"),
    ("BlendSwap-CC-0-048-front", "BlendSwap-CC-0-048"), ("BlendSwap-CC-0-048-quarter", "BlendSwap-CC-0-048"),
    ("0000012", "0000012"), ("one_sided-0000012", "one_sided-0000012")])
def test_object_of_a_name(name, expected):
    assert object_of(name) == expected


def test_next_row_of_another_object():
    objects = objects_of_rows(["b-001-front", "b-001-quarter", "a-002-front", "a-002-quarter", "c-003-front"])
    assert objects.tolist() == [0, 0, 1, 1, 2]
    assert [next_other(objects, row) for row in range(5)] == [2, 2, 4, 4, 0]
    assert [next_other(objects, row, objects != 1) for row in (0, 1, 4)] == [4, 4, 0]
    with pytest.raises(ValueError, match="no row of another object than row 2"):
        next_other(objects, 2, objects == 1)
