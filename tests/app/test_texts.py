"""The two languages of the web page, and what it shows of jobs and results."""
import re
import string
from types import SimpleNamespace

import pytest
from _app import shown, texts
from _app.jobs import Job
from _app.results import Result, Results


def test_texts_are_there_in_both_languages():
    for key, both in {**texts._TEXTS, **texts.STAGES}.items():
        fields = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in both]
        assert len(both) == 2 and fields[0] == fields[1] and all(both), key
        assert key == "other" or not re.search("[\u4e00-\u9fff]", both[0]), key


def test_browser_chooses_the_language():
    assert texts.preferred("zh-CN,zh;q=0.9,en;q=0.8") == "zh" and texts.preferred("fr,en;q=0.8") == "en"
    assert texts.preferred(None) == texts.preferred("fr") == "en"


@pytest.fixture
def job(tmp_path):
    return Job("views", "<b>cup_23", {}, tmp_path)


QUEUE = SimpleNamespace(place=lambda job: 2, unfinished=list)


def test_status_of_a_job(job):
    assert "&lt;b&gt;cup_23: waits, place 2 in the queue" in shown.status(QUEUE, job, "en")
    assert "前面还有 2 个" in shown.status(QUEUE, job, "zh")
    job.state, job.steps_drawn = "running", 1
    job.progress = {"stage": "sample", "number": 2, "stages": 3, "steps": [1, 3], "note": "", "left": 30.0, "took": 10.0}
    html = shown.status(QUEUE, job, "en")
    assert "stage 2 of 3, diffusion, step 1 of 3, 00:30 left" in html and "width:25.0%" in html
    assert f'src="../preview/{job.id}?1"' in html and "<b>" not in html
    assert shown.status(QUEUE, None, "en") == ""


def test_estimated_elevation_is_said(job):
    job.state, job.elevation = "done", 12.4
    assert "cup_23: about 12° above the horizon" in shown.status(QUEUE, job, "en")


def test_failure_is_said(job):
    job.state = "failed"
    job.lines += ["a note", "app.py: cup<script>.png: found 3 pixels"]
    html = shown.status(QUEUE, job, "en")
    assert '<p class="error">cup&lt;script&gt;.png: found 3 pixels</p>' in html and "a note" in html
    job.state = "cancelled"
    assert "error" not in shown.status(QUEUE, job, "en")


def test_result_is_escaped_and_linked(tmp_path):
    results, name = Results(tmp_path), 'a"<b>'
    folder = tmp_path / name
    (folder / "mesh").mkdir(parents=True)
    for file in ("transforms.json", "contact.png", "mesh/mesh.glb", "views.mp4"):
        (folder / file).touch()
    (folder / "run.json").write_text('{"model": "<i>", "seed": 1, "steps": 2, "device": "CPU"}')
    (folder / "mesh" / "report.json").write_text(
        '{"mesh": {"faces": 12, "watertight": true}, "doubts": ["<u>"], "interrupted": true, "metrics": {"input":'
        ' {"psnr_fg": 20.04, "iou": 0.9}}, "views": {"elevation": {"used": 10.0, "told": 12.5}}}')
    html = shown.result(results, results.get(name), "en")
    assert not re.search("<[ibu]>", html) and 'src="../files/a%22%3Cb%3E/contact.png"' in html
    for said in ("&lt;i&gt;, seed 1, 2 steps, CPU", "12 faces, watertight, made of what there was", "20.0 dB", "IoU",
                 "by the outlines 12.5", "&lt;u&gt;", "viewer/en/a%22%3Cb%3E?mesh="):
        assert said in html
    (folder / "transforms.json").unlink()
    assert "?alone=" in shown.result(results, results.get(name), "en")
    assert "请选择图片" in shown.result(results, None, "zh")


@pytest.mark.parametrize("report", [{}, {"mesh": 3}, {"mesh": {"faces": "x", "watertight": 0}, "metrics": None}, {"doubts": 3}])
def test_damaged_reports_are_shown_as_far_as_they_go(tmp_path, report):
    found = Result("cup", frozenset({"mesh/mesh.glb"}), {"model": []}, report)
    assert "<h3>cup</h3>" in shown.result(Results(tmp_path), found, "en")
