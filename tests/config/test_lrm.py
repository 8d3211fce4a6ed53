"""Settings of feed-forward networks: the published ones, and values that no network can have."""
import pytest

from sgm.config.lrm import load_lrm_spec
from sgm.config.yaml_reader import ConfigError, known_configs


def test_published_networks():
    assert known_configs("lrm") == ["lrm_small", "openlrm_base", "openlrm_large", "openlrm_small", "triposr", "vfusion3d"]
    specs = {name: load_lrm_spec(name) for name in known_configs("lrm")[1:]}
    assert all(spec.name == name for name, spec in specs.items())
    assert {name: spec.license for name, spec in specs.items() if "non-commercial" not in spec.license} == {"triposr": "MIT"}
    assert [specs[name].image_size // specs[name].encoder.patch_size for name in specs] == [24, 32, 16, 32, 36]
    assert all(spec.decoder.layers == (10 if name == "triposr" else 4) for name, spec in specs.items())


@pytest.mark.parametrize("name, override, said", [
    ("vfusion3d", "family=lrm", "family: found 'lrm', expected one of vfusion3d, openlrm, triposr"),
    ("vfusion3d", "encoder.heads=7", "encoder.heads: found 7, expected a divisor of encoder.width 768"),
    ("vfusion3d", "encoder.registers=4", "encoder.registers: found 4, expected 0: only openlrm's encoder has them"),
    ("vfusion3d", "encoder.patch_size=16", "encoder.patch_size: found 16, expected a divisor of encoder.image_size 518"),
    ("vfusion3d", "image_size=8", "image_size: found 8, expected from encoder.patch_size 14 to 8192"),
    ("vfusion3d", "triplane.heads=3", "triplane.heads: found 3, expected a divisor of triplane.width 1024"),
    ("triposr", "triplane.width=48", "triplane.width: found 48, expected a multiple of 32"),
    ("triposr", "decoder.layers=1", "decoder.layers: found 1, expected a number from 2 to 1000"),
    ("openlrm_base", "volume.samples=97", "volume.samples: found 97, expected an even number"),
    ("openlrm_base", "volume.radius=0", "volume.radius: found 0.0, expected a positive number"),
    ("openlrm_base", "volume.radius=2", "volume.radius: found 2.0, expected 1: the planes of vfusion3d and openlrm"),
    ("openlrm_base", "width=3", "width: unknown key")])
def test_values_that_no_network_can_have(name, override, said):
    with pytest.raises(ConfigError) as error:
        load_lrm_spec(name, [override])
    assert said in str(error.value) and "\n" not in str(error.value)
