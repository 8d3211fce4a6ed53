"""The process that computes: which model it keeps, and what it tells."""
from types import SimpleNamespace

import pytest
from _app import worker
from _app.worker import Worker
from support.badfiles import object_on_white


class Network:
    """What `_feedforward.FeedForward` is, without its work; `made` are the networks that were loaded."""
    made = []

    def __init__(self, args, model=None):
        self.model = model or object()
        self.made.append(self.model)

    def run(self, tell):
        tell({"stage": "encode"})
        return 0

    def elevation(self):
        return 12.5


class Sampling:
    """What `simple_video_sample.Sampling` is, without its work."""
    made = []

    def __init__(self, args, is_for_mesh=False, engine=None, on_step=None):
        self.engine = engine or SimpleNamespace(config=args.config)
        self.made.append(self.engine)

    def run(self):
        return 0


@pytest.fixture
def done(tmp_path, monkeypatch):
    """done(kind, *flags) -> exit code; done.told: what was told."""
    monkeypatch.setattr(worker._feedforward, "FeedForward", Network)
    monkeypatch.setattr(worker.simple_video_sample, "Sampling", Sampling)
    monkeypatch.setattr(Network, "made", [])
    monkeypatch.setattr(Sampling, "made", [])
    object_on_white().save(tmp_path / "cup.png")
    told = []
    process = Worker(told.append)

    def do(kind, *flags):
        return process.do({"kind": kind, "argv": [str(tmp_path / "cup.png"), *flags], "scratch": str(tmp_path)})
    do.told = told
    return do


FAST, OTHER = ("--config=lrm_small", "--ckpt=random"), ("--config=sv3d_u", "--ckpt=random")


def test_model_is_kept_until_another_is_asked_for(done):
    for flags in ((), ("--seeds=5",), OTHER, ()):
        assert done("views", *flags) == 0
    first, second, third, fourth = Sampling.made
    assert first is second and third is not first and fourth is not first
    assert (first.config, third.config, fourth.config) == (None, "sv3d_u", None)


def test_network_is_kept_for_estimate_and_mesh_and_leaves_for_a_model(done):
    assert [done("elevation", *FAST), done("fast", *FAST, "--elevation=12"), done("views"), done("fast", *FAST)] == [0] * 4
    first, second, third = Network.made
    assert first is second and third is not first
    assert {"elevation": 12.5} in done.told and {"progress": {"stage": "encode"}} in done.told
    assert Sampling.made[0] is not second, "a network is no model of views"
