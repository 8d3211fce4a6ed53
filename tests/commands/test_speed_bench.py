"""benchmarks/bench.py without PyTorch: its rows, what it keeps of runs, and the file it goes on from."""
import json
import sys
from argparse import Namespace

import bench
import numpy as np
import pytest
import table
from rows import product, rows
from sides import Result

from sgm.common.errors import InputError

CONDITIONS = {"threads": 2, "small": False}


def result(seconds, peak, flops=None, output=(1.0, 0.0)):
    return Result(seconds, np.array(output), flops, peak)


def test_rows_have_both_sides():
    """Each, also small, is a case of a module that draws its weights and builds both sides."""
    for row in (product(), *rows().values()):
        for case in (row.case, row.small):
            pair = sys.modules[type(case).__module__]
            assert all(callable(getattr(pair, name)) for name in ("draw_weights", "ours", "theirs"))
        assert row.repeat >= 1 and row.targets


def test_first_run_is_left_out():
    """Medians of the turns after it; the share is of PyTorch's operations; memory is the largest."""
    row = product()
    runs = ([[result(s, p)] for s, p in ((9, 3e9), (1, 1e9), (2, 2e9), (6, 2e9))],
            [[result(s, 1e9, 8e9, (1.0, 0.1))] for s in (7, 4, 4, 4)])
    found = bench.record("what", runs, row, "product", 4e9)
    assert found["seconds"] == [2, 4] and found["ratio"] == 0.5
    assert found["first_seconds"] == [9, 7] and found["own_gb"] == [3, 1]
    assert found["share"] == [1.0, 0.5]
    assert found["error"] == pytest.approx(0.1 / 1.01 ** 0.5)


def test_alone_each_process_has_a_first_run():
    runs = ([[result(9, 1), result(2, 1)], [result(8, 1), result(4, 1)]],
            [[result(5, 1, 0), result(1, 1, 0)], [result(5, 1, 0), result(1, 1, 0)]])
    found = bench.record("what", runs, rows()["unet-72"], "evaluate", 1e9)
    assert found["seconds"] == [3, 1] and found["first_seconds"] == [9, 5] and found["share"] is None


def test_kept_rows_are_of_equal_conditions(tmp_path):
    """A file of another number of threads is refused, as is one of something else."""
    path = tmp_path / "speed.json"
    assert bench.read(path, CONDITIONS) == {}
    path.write_text(json.dumps({**CONDITIONS, "rows": {"clip embed": 1}}))
    assert bench.read(path, CONDITIONS) == {"clip embed": 1}
    with pytest.raises(InputError, match="found threads 2, expected threads 1"):
        bench.read(path, {**CONDITIONS, "threads": 1})
    path.write_text("[]")
    with pytest.raises(InputError, match="found something else"):
        bench.read(path, CONDITIONS)


def test_kept_rows_are_not_measured_again(tmp_path, monkeypatch, capsys):
    """Only the product, which each call measures, and rows that the file lacks; each is kept at once."""
    measured, path = [], tmp_path / "speed.json"

    def measure(name, row, case, weights, repeat, threads, speed):
        measured.append(name)
        one = [[result(1, 1e9, 4e9)]] * 2
        return {f"{name} {task}": bench.record(name, (one, one), row, task, speed) for task in row.targets}

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: Namespace())
    for wanted in (["clip"], ["clip", "train"], []):
        assert bench.main([*wanted, "--json", str(path)]) == 0
    assert measured == ["product", "clip", "product", "train"]
    assert set(json.loads(path.read_text())["rows"]) == {"product product", "clip embed", "train step"}
    capsys.readouterr()
    assert bench.main(["--json", str(path), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("|") for line in lines[1:]] == [len(table.HEADING) + 1] * 5
