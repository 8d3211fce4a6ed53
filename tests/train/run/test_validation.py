"""Contact sheets of held-back clips: what is generated and measured, from which weights, and that losses stay the same."""
import csv
import logging
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image
from support.making_data import SIZE, Counter, FakeEngine, small_spec, write_film, write_orbit
from support.toy_trainer import Noise, trainer_of
from support.training import POSED, flags, write_toys

import train
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.config.recipe import Recipe
from sgm.train.data import Clips, DataSettings, LatentClips, open_data
from sgm.train.data.orbits import read_orbit
from sgm.train.run.log import Board, Metrics, open_board, read_metrics
from sgm.train.run.validation import CAPTION, SIDE, draw_sheet
from sgm.train.trainer import Row
from sgm.views.cameras import Orbit


class Painter(FakeEngine):
    """"Samples" noise and "decodes" pictures that are told beforehand, one for each clip in turn; notes what it was given."""

    def __init__(self, pictures, spec=None):
        super().__init__(spec)
        self.pictures, self.asked = list(pictures), []

    def sample(self, noise, c, uc, steps, sequential):
        self.asked.append((noise, c, uc, steps))
        return Tensor(noise)

    def decode(self, z, chunk):
        return self.pictures.pop(0)


def orbit_clips(folder, *backgrounds):
    clips = [read_orbit(write_orbit(folder / str(k), Orbit.static(10, 4), 10 * k), SIZE) for k in range(len(backgrounds))]
    return Clips([replace(clip, background=colour) for clip, colour in zip(clips, backgrounds)], (SIZE, SIZE))


WHITE, RED = (255, 255, 255), (255, 0, 0)


def test_a_sheet_by_hand(no_clip, tmp_path):
    """True views above, what was generated below; dB and share of the foreground, the condition view left out."""
    clips = orbit_clips(tmp_path, WHITE, WHITE)
    truth = [(clips.frames(k) + 1) / 2 for k in range(2)]
    off = np.clip(clips.frames(0) - 0.2, -1, 1)             # white becomes grey
    off[3] = 1.0                                            # the condition, which does not count
    engine = Painter([off, np.ones((4, 3, SIZE, SIZE), np.float32)])
    examples = LatentClips(clips, engine, tmp_path / "cache", Counter(), "last", 4)
    sheet, measured = draw_sheet(engine, examples, Recipe(sheet_clips=5, sheet_steps=3, seed=4))

    mask = [np.abs(clip - 1).max(1) > 12.5 / 255 for clip in truth]
    stored = np.floor((off + 1) * 127.5) / 255
    first = [-10 * np.log10(np.square((truth[0] - stored)[k]).mean()) for k in range(3)]   # all is foreground
    second = [-10 * np.log10(np.square(truth[1][k] - 1).mean(0)[mask[1][k]].mean()) for k in range(3)]
    assert measured["val_psnr_fg"] == pytest.approx(np.mean([first, second]), abs=1e-3)
    assert measured["val_iou"] == pytest.approx(np.mean([[mask[0][k].mean() for k in range(3)], [0, 0, 0]]), abs=1e-6)

    assert sheet.shape == (2 * (CAPTION + 2 * (SIDE + 4)), 8 * SIDE, 3) and sheet.dtype == np.uint8
    for top, wanted in ((CAPTION, truth[0]), (CAPTION + SIDE + 4, (off + 1) / 2)):
        row = sheet[top:top + SIDE:4, :4 * SIDE:4].reshape(SIZE, 4, SIZE, 3).transpose(1, 3, 0, 2)
        np.testing.assert_allclose(row / 255, wanted, atol=1.1 / 255)

    noises = [asked[0] for asked in engine.asked]
    assert noises[0].shape == (4, 4, 8, 8) and (noises[0] != noises[1]).all()
    for k, (_, c, uc, steps) in enumerate(engine.asked):
        token, latent, vector = examples.batch(np.random.default_rng(0), [k], 0.0)[1:]
        assert steps == 3 and np.array_equal(c["vector"], vector) and np.array_equal(uc["vector"], vector)
        assert np.array_equal(c["crossattn"], token) and np.array_equal(c["concat"], latent)
        assert not uc["crossattn"].any() and not uc["concat"].any()


def test_the_same_sheet_every_time(no_clip, tmp_path):
    """Its noise follows from the seed and the clip's place alone."""
    clips, noises = orbit_clips(tmp_path, WHITE, WHITE), []
    for seed in (4, 4, 5):
        engine = Painter([clips.frames(0)] * 2)
        draw_sheet(engine, LatentClips(clips, engine, tmp_path / "cache", Counter(), "any", 4), Recipe(seed=seed))
        noises.append(np.stack([asked[0] for asked in engine.asked]))
    assert np.array_equal(noises[0], noises[1]) and not np.array_equal(noises[0], noises[2])


def test_views_that_are_no_numbers(no_clip, tmp_path):
    clips = orbit_clips(tmp_path, WHITE)
    made = clips.frames(0).copy()
    made[0, 0, 3, 4] = np.nan
    engine = Painter([made])
    sheet, measured = draw_sheet(engine, LatentClips(clips, engine, tmp_path / "cache", Counter(), "last", 4), Recipe())
    assert np.isnan(measured["val_psnr_fg"]) and np.isnan(measured["val_iou"])
    assert sheet[CAPTION + SIDE + 4 + 4 * 3, 4 * 4, 0] == 127


def test_clips_come_evenly(no_clip, tmp_path):
    """From all of those on white, as an object's inputs are neighbors; the others are left out."""
    clips = orbit_clips(tmp_path, WHITE, WHITE, RED, WHITE, WHITE, RED, WHITE)
    for count, wanted in ((2, [0, 6]), (3, [0, 3, 6]), (9, [0, 1, 3, 4, 6]), (1, [0])):
        engine = Painter([clips.frames(0)] * 5)
        examples = LatentClips(clips, engine, tmp_path / "cache", Counter(), "last", 4)
        sheet, measured = draw_sheet(engine, examples, Recipe(sheet_clips=count))
        assert len(sheet) == len(wanted) * (CAPTION + 2 * (SIDE + 4)) and "val_iou" in measured
        for asked, index in zip(engine.asked, wanted, strict=True):
            latent = examples.batch(np.random.default_rng(0), [index], 0.0)[2]
            np.testing.assert_array_equal(asked[1]["concat"], latent)


def test_only_clips_on_white_are_used(no_clip, tmp_path):
    """Where there is none, and of videos, silhouettes mean nothing: whole frames are measured, and no share is told."""
    clips = orbit_clips(tmp_path, RED, WHITE, RED)
    engine = Painter([clips.frames(1)])
    examples = LatentClips(clips, engine, tmp_path / "cache", Counter(), "last", 4)
    found = draw_sheet(engine, examples, Recipe(sheet_clips=1))[1]
    assert found["val_iou"] == 1 and found["val_psnr_fg"] > 80      # but for levels cut off when they were stored
    clips = Clips(clips.items[::2], (SIZE, SIZE))
    engine = Painter([clips.frames(0) - 0.02])
    examples = LatentClips(clips, engine, tmp_path / "cache", Counter(), "last", 4)
    assert set(draw_sheet(engine, examples, Recipe(sheet_clips=1))[1]) == {"val_psnr_fg"}
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films" / "a.mp4", np.random.RandomState(0).randint(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8))
    engine = Painter([], small_spec("svd"))
    examples, _ = open_data(DataSettings(data=[str(tmp_path / "films")]), engine, Counter())
    truth = examples.clips.frames(0)
    made = np.where(truth > 0, truth - 0.2, truth + 0.2)    # an error of a tenth of the range
    made[0] = 0                                             # the condition
    engine.pictures = [made]
    found = draw_sheet(engine, examples, Recipe())[1]
    assert set(found) == {"val_psnr_fg"} and found["val_psnr_fg"] == pytest.approx(20, abs=0.1)


# --- in a run -------------------------------------------------------------------------------------------------------------

def test_it_is_drawn_from_the_average(monkeypatch, pynative):
    """And the weights come back, to the last bit."""
    trainer = trainer_of(held_out=Noise())
    for _ in range(3):
        trainer.advance()
    seen = []

    def look(engine, orbits, recipe):
        seen.append({name: parameter.asnumpy().copy() for name, parameter in engine.parameters_dict().items()})
        return "sheet", {}
    monkeypatch.setattr("sgm.train.trainer.draw_sheet", look)
    before = trainer.weights(False)
    before = {name: value.copy() for name, value in before.items()}
    assert trainer.draw() == ("sheet", {})
    average, after = trainer.weights(True), trainer.weights(False)
    assert all(np.array_equal(seen[0][name], average[name]) and np.array_equal(after[name], before[name]) for name in after)
    assert any((average[name] != before[name]).any() for name in before)


def test_want_of_memory_ends_no_training(monkeypatch, caplog):
    trainer = trainer_of(held_out=Noise())

    def fail(*_):
        raise RuntimeError("Allocate memory failed")
    monkeypatch.setattr("sgm.train.trainer.draw_sheet", fail)
    with caplog.at_level(logging.WARNING, "sgm"):
        assert trainer.draw() == (None, {})
    assert "not enough memory for a sheet" in caplog.text
    monkeypatch.setattr("sgm.train.trainer.draw_sheet", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.draw()


class Writer:
    """A tensorboardX.SummaryWriter that remembers."""
    made = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.images, self.flushed = folder, purge_step, [], [], 0
        self.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def add_image(self, name, image, step, dataformats):
        self.images.append((name, image.shape, step, dataformats))

    def flush(self):
        self.flushed += 1


def test_tensorboard_is_told_what_the_table_says(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)              # as if it were not installed
    assert open_board(tmp_path / "tensorboard", 0) is None and not (tmp_path / "tensorboard").exists()
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    board = open_board(tmp_path / "tensorboard", 0)
    assert isinstance(board, Board) and board.writer.purge_step is None
    assert open_board(tmp_path / "tensorboard", 7).writer.purge_step == 8
    metrics = Metrics(tmp_path / "metrics.csv", 0, 1, board)
    metrics.add(Row(0.5, 2.0, 0.1, False))
    metrics.show(1, np.zeros((4, 5, 3), np.uint8))
    metrics.write(1, val_loss=0.25, val_iou=float("nan"))
    told = {name: value for name, value, step in board.writer.scalars if step == 1}
    row = read_metrics(tmp_path / "metrics.csv")[0]
    assert (row["val_loss"], row["val_psnr_fg"], row["val_iou"]) == ("0.250000", "", "nan")
    assert set(told) == {"loss", "grad_norm", "lr", "clips_per_second", "val_loss"}
    assert all(told[name] == pytest.approx(float(row[name]), rel=1e-3) for name in told)
    assert board.writer.images == [("held out", (4, 5, 3), 1, "HWC")] and board.writer.flushed == 1


def rows_of(run):
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_run_with_sheets_has_the_losses_of_one_without(tmp_path, monkeypatch):
    """On a posed network of three views: some frames of each clip, sheets, TensorBoard; and a run that goes on."""
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    toys, runs = write_toys(tmp_path / "toys"), [tmp_path / name for name in ("plain", "sheets", "whole")]

    def command(run, steps, *changes, more=()):
        return flags("sv3d_tiny", "sv3d_tiny", toys, run, f"steps={steps}", f"val=[{toys}]", "schedule=constant", "frames=2",
                     "save_every=2", "sheet_clips=1", "sheet_steps=2", *changes, model_changes=POSED, more=more)
    assert train.run(command(runs[0], 4, "sheet_every=0")) == 0
    assert train.run(command(runs[1], 3, "sheet_every=2")) == 0
    assert train.run(command(runs[1], 4, "sheet_every=2", more=["--resume"])) == 0
    assert train.run(command(runs[2], 4, "sheet_every=2")) == 0
    plain, sheets, whole = map(rows_of, runs)
    same = ("step", "loss", "grad_norm", "lr")
    assert [[row[name] for name in same] for row in plain] == [[row[name] for name in same] for row in sheets]
    assert [row["val_psnr_fg"] for row in plain] == [""] * 4
    assert [bool(row["val_psnr_fg"]) for row in sheets] == [False, True, True, True]
    assert all(0 < float(row["val_psnr_fg"]) <= 100 and 0 <= float(row["val_iou"]) <= 1 for row in sheets[1:])
    # graphs that draw a second time see the weights as they are then: as new graphs of the run that went on do
    assert whole[3]["val_psnr_fg"] == sheets[3]["val_psnr_fg"] != whole[1]["val_psnr_fg"]
    assert sorted(path.name for path in runs[1].glob("val_*")) == [f"val_0000000{k}.png" for k in (2, 3, 4)]
    assert not list(runs[0].glob("val_*"))
    assert Image.open(runs[1] / "val_00000004.png").size == (8 * SIDE, CAPTION + 2 * (SIDE + 4))
    ours, theirs = (open_checkpoint(run / "state.safetensors") for run in runs[:2])
    assert set(ours) == set(theirs) and all(np.array_equal(ours.read(key), theirs.read(key)) for key in ours)
    assert [image[2] for writer in Writer.made[-3:] for image in writer.images] == [2, 3, 4, 2, 4]
