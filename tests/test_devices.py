"""Each state in which a device cannot be used has a line of its own."""

import importlib.metadata
import importlib.util
import sys

import pytest
import torch

from videobench.devices import Device, open_device
from videobench.errors import InputError


def test_cpu_opens_and_hides_torch_npu(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    assert open_device("cpu") == Device("cpu", torch.device("cpu"), "cpu")
    with pytest.raises(ImportError):
        import torch_npu  # noqa: F401


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_a_card(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match=r"device cuda: no card is visible \(CUDA_VISIBLE_DEVICES=''\).*--device cpu"):
        open_device("cuda")


def test_an_index_beyond_the_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InputError, match=r"cuda:2 does not exist: 2 visible"):
        open_device("cuda", 2)


@pytest.fixture
def npu_package(monkeypatch):
    """Makes `import torch_npu` do what `load` says, at a version that the test names."""
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    real_version, real_find = importlib.metadata.version, importlib.util.find_spec

    def install(version, load):
        class Finder:
            def find_spec(self, name, path=None, target=None):
                return importlib.util.spec_from_loader(name, self) if name == "torch_npu" else None

            def create_module(self, spec):
                return None

            def exec_module(self, module):
                load()

        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name: version if name == "torch_npu" else real_version(name)
        )
        monkeypatch.setattr(importlib.util, "find_spec", real_find)

    return install


def raising(error):
    def load():
        raise error

    return load


TORCH = torch.__version__.split("+")[0]


@pytest.mark.skipif(importlib.util.find_spec("torch_npu") is not None, reason="torch_npu is installed")
def test_torch_npu_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    with pytest.raises(InputError, match=r"torch_npu is not installed; pip install -r requirements-npu\.txt"):
        open_device("npu")


@pytest.mark.parametrize(
    ("version", "error", "found"),
    [
        pytest.param("1.0.0", None, r"torch_npu 1\.0\.0 needs torch 1\.0\.0, but torch", id="of-another-torch"),
        pytest.param(
            TORCH + ".post2",
            ImportError("libhccl.so: cannot open shared object file: No such file or directory"),
            r"CANN is not set up \(libhccl\.so not found\); source the set_env\.sh",
            id="no-cann",
        ),
        pytest.param(
            TORCH,
            ImportError("libascend_hal.so: cannot open shared object file"),
            r"no Ascend driver \(libascend_hal\.so not found\)",
            id="no-driver",
        ),
        pytest.param(TORCH, ImportError("x.so: undefined symbol: _ZN2at"), "fits neither torch", id="undefined-symbol"),
        pytest.param(TORCH, ImportError("no module named x"), "cannot be imported: no module", id="other-import-error"),
        pytest.param(TORCH, RuntimeError("Initialize:aclInit failed"), "cannot be used: Initialize", id="cann-refuses"),
    ],
)
def test_torch_npu_broken(npu_package, version, error, found):
    npu_package(version, raising(error))
    with pytest.raises(InputError, match=found):
        open_device("npu")
