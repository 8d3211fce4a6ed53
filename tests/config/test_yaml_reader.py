"""YAML files into dataclasses, and what is refused, in one line."""
import dataclasses
from typing import List

import pytest
from support.configuring import error_of, written

from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import ConfigError, load_yaml


@pytest.mark.parametrize("text, expected", [
    ("steps: 3", "steps: unknown key; the nearest known key is sampling.steps"),
    ("sampling: {stepz: 3}", "sampling.stepz: unknown key; the nearest known key is sampling.steps"),
    ("qqq: 3", "qqq: unknown key; known keys are name, num_frames"),
    ("unet: {qqq: 3}", "unet.qqq: unknown key; known keys are unet.in_channels"),
    ("1: 3", "1: unknown key"),
    ("sampling: {steps: many}", "sampling.steps: found 'many', expected int"),
    ("sampling: {steps: 2.5}", "sampling.steps: found 2.5, expected int"),
    ("sampling: {steps: true}", "sampling.steps: found True, expected int"),
    ("vae: {post_quant_conv: 7}", "vae.post_quant_conv: found 7, expected bool"),
    ("sampling: euler", "sampling: found 'euler', expected a mapping of sampler, steps"),
    ("sampling:", "sampling: found nothing, expected a mapping"),
    ("name: ???", "name: found '???', expected str"),
    ("unet: {channel_mult: 3}", "unet.channel_mult: found 3, expected List[int]"),
    ("unet: {channel_mult: [a]}", "unet.channel_mult: found ['a'], expected List[int]"),
    ("unet: {channel_mult: [{a: 1}]}", "unet.channel_mult: found [{'a': 1}], expected List[int]"),
    ("unet: {channel_mult: [true, 2]}", "unet.channel_mult: found [True, 2], expected List[int]"),
    ("", "found nothing, expected a mapping"),
    ("- a", "found a sequence, expected a mapping"),
    ("just words", "found a scalar, expected a mapping"),
    ("a: [1", "not valid YAML"),
    ("name: a\nname: b", "not valid YAML"),
    ("name: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ("name: ${oc.env:HOME}", "expected a plain value, not an interpolation"),
    (b"\xff\xfe\x00", "not text"),
    (b"\x00\x01\x02", "not valid YAML"),
    ("#" * 300_000, "larger than 256 KB"),
    ("a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
     "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d]", "more than 2000 values"),
    ("a: &a [*a]", "nested too deeply"),
    ("a: " + "[" * 100 + "]" * 100, "nested too deeply"),
    ("[" * 1_000, "nested too deeply"),
])
def test_a_wrong_file_is_told_in_one_line(tmp_path, text, expected):
    path = written(tmp_path, text)
    message = error_of(load_spec, path)
    assert message.startswith(f"{path}: ") and expected in message


def test_any_dataclass_can_be_a_schema(tmp_path):
    @dataclasses.dataclass
    class Optimizer:
        lr: float = 1e-4
        betas: List[float] = dataclasses.field(default_factory=lambda: [0.9, 0.999])

    @dataclasses.dataclass
    class Recipe:
        steps: int = 10
        optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

        def validate(self):
            if self.steps < 1:
                raise ConfigError(f"steps: found {self.steps}, expected at least 1")

    path = written(tmp_path, "optimizer: {lr: 3.0e-5}")
    assert load_yaml(Recipe, path, ["steps=7"]) == Recipe(7, Optimizer(3e-5))
    message = error_of(load_yaml, Recipe, path, ["steps=0"])
    assert message == f"{path} with overrides steps=0: steps: found 0, expected at least 1"
    assert "the nearest known key is optimizer.lr" in error_of(load_yaml, Recipe, written(tmp_path, "lr: 3"))
