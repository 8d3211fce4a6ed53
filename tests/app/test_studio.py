"""How a user's wish becomes a job: its folder and its flags."""
import json
import sys
from types import SimpleNamespace

import app
import image_to_mesh
import pytest
from _app import jobs
from _app.studio import Studio
from support.badfiles import encoded, object_on_white

from sgm.common.errors import InputError

VIEWS = {"model": "sv3d_tiny", "elevation": 10, "orbit": "default", "amplitude": 30, "steps": 1, "seed": 23, "guidance": 1}
MESH = {"config": "fast", "light": "separate", "elevation_from": "auto", "elevation": 0, "distill": False, "resume": False}
# It says what it was told, and does nothing.
PROCESS = ("import os, sys\npipe = os.fdopen(int(sys.argv[1]), 'w', buffering=1)\n"
           "for line in sys.stdin:\n    print(line, '\\0', sep='\\n', flush=True)\n    print('{\"code\": 0}', file=pipe)\n")


@pytest.fixture
def studio(tmp_path):
    args = app.parse(["--output", str(tmp_path / "out"), "--also", "sv3d_u=random", "--fast-config", "triposr", "--fast-ckpt", "random"])
    made = Studio(args, app.models(args), app.fast_argv(args), [sys.executable, "-S", "-c", PROCESS])
    yield made
    made.close()
    assert not made.scratch.exists()


@pytest.fixture
def told(studio):
    """told(job): what the process got."""
    said = []
    studio.queue.log = said.append

    def wait(job):
        with studio.queue.changed:
            assert studio.queue.changed.wait_for(lambda: job.is_over, 20)
        return next(given for given in map(json.loads, said) if given["scratch"] == str(job.scratch))
    return wait


def test_two_users_of_one_name_get_folders_of_their_own(studio, told):
    tokens = [studio.cutouts.add("a cup.png", encoded(object_on_white()))[0] for _ in range(2)]
    jobs = [studio.make_views(token, VIEWS) for token in tokens]
    assert [job.folder for job in jobs] == ["a_cup_23", "a_cup-2_23"]
    given, _ = map(told, jobs)
    args = image_to_mesh.parse(given["argv"])
    assert given["kind"] == "views" and args.image.endswith("/a_cup.png") and args.seeds == [23] and args.steps == 1
    assert args.output == str(studio.results.folder) and not jobs[0].scratch.exists()


def test_wrong_wishes_leave_nothing_behind(studio):
    token, _ = studio.cutouts.add("cup.png", encoded(object_on_white()))
    for form in ({**VIEWS, "orbit": "/etc/passwd"}, {**VIEWS, "seed": 0.5}):
        with pytest.raises(InputError):
            studio.make_views(token, form)
    for name in (None, "cup_23", "../out", 3):
        with pytest.raises(InputError, match="found no views"):
            studio.make_mesh(name, MESH)
    assert not list(studio.jobs.iterdir()) and not studio.queue.known


def test_name_of_a_job_that_is_refused_is_free_again(studio, monkeypatch):
    token, _ = studio.cutouts.add("cup.png", encoded(object_on_white()))
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "MOST_WAITING", 0)
        for make, given in ((studio.make_views, VIEWS), (studio.make_fast, {"elevation": 0})):
            with pytest.raises(InputError, match="the queue is full"):
                make(token, given)
    assert studio.make_views(token, VIEWS).folder == "cup_23" and studio.make_fast(token, {"elevation": 0}).folder == "cup"


def test_only_uploads_are_opened(studio, tmp_path):
    inside, outside = studio.uploads / "a" / "cup.png", tmp_path / "cup.png"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(encoded(object_on_white()))
    (studio.uploads / "link.png").symlink_to(outside)
    assert studio.open_upload(str(inside))[1].name == "cup.png"
    for path in (outside, studio.uploads / "link.png", f"{inside}/../../../../cup.png"):
        with pytest.raises(InputError, match="expected an uploaded file"):
            studio.open_upload(str(path))


def test_mesh_of_a_result(studio, told):
    folder = studio.results.folder / "cup_23"
    folder.mkdir()
    (folder / "transforms.json").write_text("{}")
    (folder / "run.json").write_text('{"stages": {}, "model": "sv3d_p"}')
    with pytest.raises(InputError, match="another model"):
        studio.make_mesh("cup_23", {**MESH, "distill": True})
    given = told(studio.make_mesh("cup_23", MESH))
    args = image_to_mesh.parse(given["argv"])
    assert (given["kind"], given["folder"], given["elevation"], args.mesh_config) == ("mesh", str(folder), "auto", "fast")
    (folder / "run.json").write_text('{"stages": {}, "model": "sv3d_u"}')
    args = image_to_mesh.parse(told(studio.make_mesh("cup_23", {**MESH, "distill": True}))["argv"])
    assert args.distill and (args.config, args.ckpt) == ("sv3d_u", "random"), "the model that made the views"


def test_views_are_made_by_the_model_that_is_chosen(studio, told):
    token, _ = studio.cutouts.add("cup.png", encoded(object_on_white()))
    args = [image_to_mesh.parse(told(studio.make_views(token, {**VIEWS, "model": name, "guidance": 2}))["argv"])
            for name in ("sv3d_tiny", "sv3d_u")]
    assert [(one.config, one.ckpt, one.guidance) for one in args] == [(None, None, [1, 2]), ("sv3d_u", "random", [1, 2])]
    for name in ("sv3d_p", None, ["sv3d_u"]):
        with pytest.raises(InputError, match="^model: found"):
            studio.make_views(token, {**VIEWS, "model": name})


def test_fast_mesh_of_an_upload(studio, told):
    token, _ = studio.cutouts.add("cup.png", encoded(object_on_white()))
    job = studio.make_fast(token, {"elevation": 20})
    given = told(job)
    args = image_to_mesh.parse(given["argv"])
    assert (given["kind"], job.folder, args.feedforward, args.elevation) == ("fast", "cup", True, 20)
    studio.fast_argv = None
    with pytest.raises(InputError, match="found no feed-forward network"):
        studio.make_fast(token, {"elevation": 20})


def test_estimate_of_an_upload(studio, told):
    token, _ = studio.cutouts.add("cup.png", encoded(object_on_white()))
    with pytest.raises(InputError, match="^elevation: found no network with an estimator"):
        studio.estimate(token)
    studio.estimates = True
    jobs = [studio.estimate(token) for _ in range(2)]
    assert [job.folder for job in jobs] == ["cup", "cup"] and jobs[0].id != jobs[1].id
    assert studio.queue.of("cup") is None and not studio.results.reserved, "it is no result, and takes no name of one"
    given = told(jobs[0])
    args = image_to_mesh.parse(given["argv"])
    assert (given["kind"], args.feedforward) == ("elevation", True) and args.image.endswith("/cup.png")


@pytest.mark.parametrize("config, estimates", [("lrm_small", True), ("triposr", False), (None, False)])
def test_network_with_an_estimator_is_known(tmp_path, config, estimates):
    args = SimpleNamespace(device="CPU", output=tmp_path, fast_config=config)
    made = Studio(args, app.models(app.parse([])))
    made.close()
    assert made.estimates is estimates


def test_flags_of_the_feed_forward_network():
    assert app.fast_argv(app.parse([])) is None
    found = image_to_mesh.parse(["cup.png", *app.fast_argv(app.parse(["--fast-config", "triposr", "--fast-ckpt", "random"]))])
    assert (found.config, found.ckpt, found.feedforward) == ("triposr", "random", True)


@pytest.mark.parametrize("flags, said", [
    (["--fast-config", "sv3d_p", "--fast-ckpt", "random"], "--fast-config: found sv3d_p, expected a feed-forward network"),
    (["--fast-ckpt", "random"], "--fast-ckpt: needs --fast-config"), (["--fast-config", "triposr"], "--fast-ckpt: needs --fast-config"),
    (["--ckpt", "random"], "--ckpt: needs --config"), (["--config", "sv3d_p"], "--config: sv3d_p needs weights"),
    (["--config", "sv3d_p", "--ckpt", "nowhere.safetensors"], "--ckpt: found nothing at nowhere.safetensors"),
    (["--lora", "nowhere"], "--lora: found nothing at nowhere"), (["--also", "sv3d_u"], "--also: found 'sv3d_u', expected a model and"),
    (["--also", "sv3d_u=nowhere"], "--also: found nothing at nowhere")])
def test_what_no_job_could_use_is_refused_at_the_start(flags, said, capsys):
    with pytest.raises(SystemExit):
        app.parse(flags)
    error = capsys.readouterr().err
    assert f"argument {said}" in error and "Traceback" not in error
    app.parse(["--config", "sv3d_tiny"]), app.parse(["--config", "sv3d_p", "--ckpt", "random"])


def test_flags_go_to_the_process_with_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    args = app.parse(["--config", "sv3d_p", "--ckpt", "weights.safetensors", "--ema", "--set", "height=320", "--set", "width=320",
                      "--dtype", "fp16", "--also", "sv3d_u=weights.safetensors"])
    first, second = app.models(args)
    assert (first.spec.name, first.spec.height, second.spec.name, second.spec.height) == ("sv3d_p", 320, "sv3d_u", 576)
    other = image_to_mesh.parse(["cup.png", *second.argv])
    assert (other.config, other.ckpt, other.ema, other.set, other.dtype) == ("sv3d_u", first.argv[4].removeprefix("--ckpt="), False,
                                                                              [], "fp16")
    found = image_to_mesh.parse(["cup.png", *first.argv])
    assert (found.config, found.ckpt, found.ema) == ("sv3d_p", str(tmp_path / "weights.safetensors"), True)
    assert found.set == ["height=320", "width=320"] and found.dtype == "fp16" and not found.sequential_cfg


def test_other_machines_need_a_password(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(app.PASSWORD, raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert app.password(app.parse([])) is app.password(app.parse(["--host", "localhost"])) is None
    with pytest.raises(InputError, match="^--host 0.0.0.0: needs a password; give --password-file or set SV3D_APP_PASSWORD$"):
        app.password(app.parse(["--host", "0.0.0.0"]))
    (tmp_path / "secret").write_text("long enough\nsecond line\n")
    args = app.parse(["--host", "0.0.0.0", "--password-file", str(tmp_path / "secret")])
    assert app.password(args) == "long enough"
    monkeypatch.setenv(app.PASSWORD, "short")
    with pytest.raises(InputError, match="found 5 letters, expected at least 8"):
        app.password(app.parse([]))
    pair = ["--tls-cert", str(tmp_path / "secret"), "--tls-key", str(tmp_path / "secret")]
    assert app.exit_code("app.py", app.main, pair) == 2
    assert capsys.readouterr().err.startswith(f"app.py: --tls-cert {tmp_path / 'secret'}: found no certificate with its key")
    for bad in (["--tls-cert", str(tmp_path / "secret")], ["--tls-key", "nothing.pem"]):
        with pytest.raises(SystemExit):
            app.parse(bad)


def test_toolkit_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    assert app.exit_code("app.py", app.main, []) == 2
    assert capsys.readouterr().err == ("app.py: found no package gradio, which the page needs; make app installs it, or pip install"
                                       " -r requirements-app.txt\n")


def test_models_that_the_page_cannot_offer_are_refused(tmp_path):
    for flags, said in ((["--config", "svd", "--ckpt", "random"], "^--config: found svd, which makes a video"),
                        (["--also", "sv3d_tiny=random"], "^--also: found two models of the name sv3d_tiny")):
        args = app.parse([*flags, "--output", str(tmp_path)])
        with pytest.raises(InputError, match=said):
            Studio(args, app.models(args))
