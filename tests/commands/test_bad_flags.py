"""Wrong flags of the commands and wrong arguments of the library: one line that names the flag, what was found and what was
expected; exit code 2, nothing written."""
import json

import numpy as np
import pytest
from support.commands import ending, load_tool, sample

import simple_video_sample
from sgm.config.model_files import load_spec
from sgm.diffusion.guards import PipelineError, check_request

held_back = load_tool("held_back")


def cameras_of(count, path):
    path.write_text(json.dumps({"azimuths_deg": list(range(count - 1)) + [0], "elevations_deg": [0] * count}))
    return path


@pytest.mark.parametrize("flags, expected", [
    ("--steps x", "argument --steps: found 'x', expected a whole number from 1 to 10000"),
    ("--steps 1.5", "argument --steps: found '1.5'"),
    ("--decode-chunk -1", "argument --decode-chunk: found '-1', expected a whole number from 1"),
    ("--num-frames 0", "argument --num-frames: found '0'"),
    ("--num-frames 100000", "argument --num-frames: found '100000', expected a whole number from 1 to 1000"),
    ("--preview -1", "argument --preview: found '-1'"),
    ("--fps 0", "argument --fps: found '0'"),
    ("--seeds a", "argument --seeds: found 'a', expected at most 100000 numbers and rising ranges"),
    ("--seeds 4294967296", "from 0 to 4294967295"),
    ("--seeds 0-4294967295", "expected at most 100000 numbers"),
    ("--guidance nan 1", "argument --guidance: found 'nan', expected a number from"),
    ("--cond-aug=-1", "argument --cond-aug: found '-1'"),
    ("--cond-aug inf", "argument --cond-aug: found 'inf'"),
    ("--motion-bucket 256", "expected a whole number from 0 to 255"),
    ("--frame-ratio nan", "argument --frame-ratio: found 'nan'"),
    ("--size 64x", "argument --size: found '64x', expected pixels as in 576 or 576x1024"),
    ("--size 65536", "height: found 65536, expected a positive multiple of 16 up to 8192"),
    ("--elevation 90", "--elevation: found 90, expected degrees above -90 and below 90"),
    ("--elevation=-90.5", "--elevation: found -90.5"),
    ("--elevation nan", "--elevation: found nan"),
    ("--orbit sine-95", "--orbit sine-95 at --elevation 10: --elevations: view 0 has"),
    ("--orbit statc", "--orbit statc: found no such file, expected static, dynamic, sine-30"),
    ("--orbit {tmp}/two.json", "two.json: found 2 views, expected 3, the input view last; to make 2 views give --num-fr"),
    ("--elevations 1,2,3,4", "--elevations: found 4 views, expected 3"),
    ("--elevations 1,2,x", "argument --elevations: found 'x', expected numbers between commas"),
    ("--elevations 1,2,nan", "argument --elevations: found 'nan'"),
    ("--background 1000000,0,0", "--background is '1000000,0,0'"),
    ("--format mp4,avi", "--format: found avi, expected any of mp4, gif, png"),
    ("--set name=${oc.env:HOME}", "--set name: found '${oc.env:HOME}', expected a plain value"),
    ("--set sampling.steps=0", "sampling.steps: found 0, expected a positive number up to 10000"),
    ("--set sampling.steps=" + "9" * 400, "sampling.steps: found 9999"),
    ("--ckpt w.safetensors", "--config is missing"),
    ("--stps 3", "unrecognized arguments: --stps 3"),
])
def test_bad_flags_of_sampling(flags, expected, tmp_path, photo, capsys):
    cameras_of(2, tmp_path / "two.json")
    words = flags.replace("{tmp}", str(tmp_path)).split(" ")
    code, said = ending(simple_video_sample.run, sample(photo, tmp_path / "out", *words), capsys)
    assert code == 2 and expected in said
    assert not (tmp_path / "out").exists()


def test_as_many_cameras_as_the_model_makes_unless_told(tmp_path, photo, quick, capsys):
    argv = ["--image", photo, "--output", tmp_path / "out", "--format", "png", "--elevations", "1,2"]
    code, said = ending(simple_video_sample.run, argv, capsys)
    assert code == 2 and "--elevations: found 2 views, expected 21" in said
    assert simple_video_sample.run([str(word) for word in [*argv, "--num-frames", "2"]]) == 0


@pytest.mark.parametrize("flags, expected", [
    ("--steps 0", "argument --steps: found '0', expected a whole number from 1"), ("--seed -1", "argument --seed"),
    ("--elevation 95", "argument --elevation: found '95', expected a number from -89 to 89"),
    ("--guidance nan 1", "argument --guidance: found 'nan'"), ("--config nothing", "nothing: no such file or name"),
    ("--config svd", "expected")])
def test_bad_flags_of_the_held_back_orbits(flags, expected, tmp_path, capsys):
    code, said = ending(held_back.run, ["--output", tmp_path / "out", *flags.split()], capsys)
    assert code == 2 and expected in said and not (tmp_path / "out").exists()


def test_bad_arguments_of_the_library():
    spec, image = load_spec("sv3d_tiny"), np.zeros((64, 64, 4), np.uint8)
    check_request(spec, image, "euler", steps=1, guidance_range=(1, 2.5))
    for change, expected in ((dict(steps=0), "steps: found 0, expected 1 to"), (dict(decode_chunk=0), "chunk: found 0"),
                             (dict(seed=-1), "seed: found -1"), (dict(cond_aug=np.nan), "cond_aug: found nan"),
                             (dict(guidance_range=(1, np.inf)), "guidance_range: found (1, inf)")):
        with pytest.raises(PipelineError, match=expected.replace("(", r"\(").replace(")", r"\)")):
            check_request(spec, image, "euler", **change)
    with pytest.raises(PipelineError, match="sampler: found 'ddim', expected one of euler"):
        check_request(spec, image, "ddim")
    with pytest.raises(PipelineError, match=r"image: found uint8 \(64, 64, 3\), expected uint8 \(64, 64, 4\)"):
        check_request(spec, image[..., :3], "euler")
