"""`sgm.audit.environment`: what a machine has, and what is known to go wrong with it."""
import mindspore as ms
import numpy as np
import pytest

from sgm.audit import environment

NPU_SMI = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 93.8        49                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3161 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | Warning       | 93.8        49                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3161 / 65536         |
"""


def test_a_machine_without_an_npu():
    found = environment.versions()
    assert found["mindspore"] == ms.__version__ and found["numpy"] == np.__version__
    assert (found["cann"], found["driver"], found["chips"], found["generation"]) == (None, None, [], None)


def test_a_machine_with_one(tmp_path, monkeypatch):
    """CANN's version where ASCEND_HOME_PATH points, else below /usr/local/Ascend; the driver's always there."""
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "version.info").write_text("package_version=\nVersion=24.1.rc2\nascendhal_version=7.35\n")
    usual = tmp_path / "ascend-toolkit" / "latest"
    usual.mkdir(parents=True)
    (usual / "version.cfg").write_text("# version: 1.0\nruntime_running_version=[7.3.0.1.231:8.0.RC3]\n")
    monkeypatch.setattr(environment, "ASCEND", tmp_path)
    monkeypatch.setattr(environment, "_npu_smi", lambda: NPU_SMI)
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    found = environment.versions()
    assert (found["cann"], found["driver"], found["firmware"]) == ("8.0.RC3", "24.1.rc2", None)
    assert (found["chips"], found["generation"]) == (["910B3", "910B3"], "A2")
    own = tmp_path / "own"
    (own / "compiler").mkdir(parents=True)
    (own / "compiler" / "version.info").write_text("Version=8.2.RC1\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(own))
    assert environment.versions()["cann"] == "8.2.RC1"


def test_generations():
    chips = {"910B1": "A2", "910B2C": "A2", "910B4-1": "A2", "910_9392": "A2", "910A": "910A", "910B": "910A",
             "910ProB": "910A", "910PremiumA": "910A", "310P3": "310P"}
    assert {chip: environment.generation(chip) for chip in chips} == chips


@pytest.mark.parametrize("changed, device, said", [
    ({}, "CPU", []),
    ({"mindspore": "2.9.0"}, "CPU", ["about 100 times slower on a CPU"]),
    ({"mindspore": "2.9.0"}, "Ascend", []),
    ({"mindspore": "2.10.0rc1"}, "CPU", ["about 100 times slower on a CPU"]),
    ({"mindspore": "2.5.0"}, "Ascend", ["2.5.0 is too old"]),
    ({"numpy": "2.1.3"}, "CPU", ["built for numpy 1"]),
    ({"chips": ["910A"], "generation": "910A"}, "Ascend", ["a 910A: it has no bfloat16"]),
    ({"chips": ["310P3"], "generation": "310P"}, "Ascend", ["a 310P3: it is for inference"]),
    ({"chips": ["910B3"], "generation": "A2"}, "CPU", ["--device Ascend checks them"]),
    ({"cann": "8.0.RC3"}, "Ascend", ["made for CANN 8.2, 8.3, 8.5; found 8.0.RC3"]),
    ({"cann": "8.2.RC1"}, "Ascend", []),
])
def test_warnings(changed, device, said, monkeypatch):
    monkeypatch.setenv("ASCEND_HOME_PATH", "/somewhere")
    found = {"mindspore": "2.8.0", "numpy": "1.26.4", "cann": None, "chips": [], "generation": None, **changed}
    warnings = list(environment.warnings(found, device))
    assert len(warnings) == len(said) and all(text in warning for text, warning in zip(said, warnings))
