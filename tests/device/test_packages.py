"""A package that is missing or does not fit is named before a run begins, with what is needed and the fix."""

import importlib.util
import sys

import pytest
import torch

from tests.support.fault_tools import Bench, assert_refused
from videobench.device.packages import check_packages
from videobench.errors import InputError

TORCH = torch.__version__.split("+")[0]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts metadata of a package before the real one's, as an older copy in a user's environment."""

    def place(name, version, *lines):
        folder = tmp_path / f"site/{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("\n".join([f"Name: {name}", f"Version: {version}", *lines]) + "\n")
        monkeypatch.syspath_prepend(tmp_path / "site")

    return place


MODES = [("--check_device",), ("--dry_run",), ("--check_model",), ()]
SOUND = "5.1.0"  # of transformers
CASES = [
    pytest.param(
        ("transformers", "4.44.2"), "transformers 4.44.2 is installed, >=4.56.2,<6 is needed; pip install -r requi",
        id="too-old",
    ),
    pytest.param(("transformers", "6.0.0"), "transformers 6.0.0 is installed, >=4.56.2,<6 is needed; ", id="too-new"),
    pytest.param(("torch", "2.3.1+cpu"), r"torch 2.3.1\+cpu is installed, >=2.4 is needed; pip install", id="torch"),
    pytest.param(("av", "14.0.0"), "av 14.0.0 is installed, >=17.1 is needed; pip install -r", id="pyav"),
    pytest.param(
        ("transformers", SOUND, "Requires-Dist: no-such-package>=3,<4"),
        f"no-such-package is not installed, >=3,<4 is needed by transformers {SOUND}; pip install 'no-such-package>=3,",
        id="dependency-missing",
    ),
    pytest.param(
        ("transformers", SOUND, "Requires-Dist: numpy<1.0"),
        f"numpy .* is installed, <1.0 is needed by transformers {SOUND}; pip install 'numpy<1.0'",
        id="dependency-too-new",
    ),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode[0] if mode else "run")
@pytest.mark.parametrize(("package", "found"), CASES)
def test_a_package_that_does_not_fit_is_named_before_anything_else(tmp_path, capsys, install, package, found, mode):
    bench = Bench(tmp_path / "数据 set", capsys).shorten(2)
    install(*package)
    assert_refused(bench.answer(*mode), "", found)
    assert not (bench.folder / "out").exists()


@pytest.mark.parametrize(
    "package",
    [
        ("torch", "2.6.0a0+ecf3bae40a.nv25.01"),
        ("transformers", SOUND, 'Requires-Dist: no-such-package; extra == "vision"'),
        ("transformers", SOUND, 'Requires-Dist: no-such-package; python_version < "3"'),
    ],
    ids=["of-a-makers-container", "extra", "another-python"],
)
def test_a_package_that_fits_is_let_through(install, package):
    install(*package)
    check_packages("cpu")


NPU_CASES = [
    pytest.param(
        "1.0.0", r"torch_npu 1\.0\.0 needs torch 1\.0\.0, but torch .*; pip install torch_npu==", id="another"
    ),
    pytest.param(TORCH + ".post2", None, id="post-release"),
    pytest.param(TORCH + "rc1", None, id="release-candidate"),
]


@pytest.mark.parametrize(("version", "found"), NPU_CASES)
def test_torch_npu_and_torch_are_a_pair(tmp_path, monkeypatch, install, version, found):
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)  # hidden by a test before this one
    install("torch_npu", version)
    (tmp_path / "site/torch_npu.py").write_text("raise AssertionError('imported')\n")
    if found is None:
        check_packages("npu")
        return
    with pytest.raises(InputError, match=found):
        check_packages("npu")
    assert "torch_npu" not in sys.modules


@pytest.mark.skipif(importlib.util.find_spec("torch_npu") is not None, reason="torch_npu is installed")
def test_torch_npu_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    with pytest.raises(InputError, match=r"torch_npu is not installed; pip install -r requirements-npu\.txt"):
        check_packages("npu")
