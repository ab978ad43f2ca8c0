"""Each state in which a device cannot be used has a line of its own."""

import os
import platform
import sys

import pytest
import torch

from videobench.device import npu
from videobench.device.devices import (
    DETERMINISTIC_VARIABLES,
    Device,
    card_numbers,
    check_free_memory,
    name_of,
    open_device,
)
from videobench.errors import InputError


def test_the_cpu_opens_and_hides_torch_npu(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    assert open_device("cpu") == Device("cpu", torch.device("cpu"), "cpu")
    with pytest.raises(ImportError):
        import torch_npu  # noqa: F401


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param("0, 1", r"\(CUDA_VISIBLE_DEVICES='0, 1', which holds a space: write 0,1\)", id="inside"),
        pytest.param(" 2", r"\(CUDA_VISIBLE_DEVICES=' 2', which holds a space: write 2\)", id="before"),
        pytest.param("0,1", r"\(CUDA_VISIBLE_DEVICES='0,1'\)", id="no-space"),
        pytest.param("", r"\(CUDA_VISIBLE_DEVICES=''\)", id="empty"),
    ],
)
def test_cuda_without_a_card_is_refused_and_a_space_in_the_list_of_cards_named(monkeypatch, value, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with pytest.raises(InputError, match=f"device cuda: no card is visible {found}; check nvidia-smi.*--device cpu"):
        open_device("cuda")


def test_more_processes_than_cards_are_refused_with_the_number_of_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(
        InputError, match=r"2 does not exist: 2 visible \(CUDA_VISIBLE_DEVICES='4,5'\); .*=2, or list only"
    ):
        open_device("cuda", 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(InputError, match=r"2 visible \(CUDA_VISIBLE_DEVICES is not set\); start one process for each"):
        open_device("cuda", 2)


@pytest.fixture
def one_gpu(monkeypatch):
    """A simulated CUDA card, whose (free, total) bytes can be set."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a card")
    memory = [8, 8]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: tuple(memory))
    return memory


@pytest.fixture
def settings_restored():
    kept = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept
    torch.use_deterministic_algorithms(False)


def test_a_cuda_card_computes_float32_in_full_and_not_in_cudnns_attention(one_gpu, settings_restored):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert open_device("cuda") == Device("cuda", torch.device("cuda", 0), "a card")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    one_gpu[0] = 0
    with pytest.raises(
        InputError, match="cuda:0: no memory is free; another process holds it: find it with nvidia-smi"
    ):
        open_device("cuda")


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        pytest.param(None, ":4096:8", id="unset"),
        pytest.param(":16:8", ":16:8", id="another-that-serves"),
        pytest.param(":8:1", None, id="one-that-does-not"),
    ],
)
def test_deterministic_on_cuda_sets_or_refuses_the_workspace(monkeypatch, one_gpu, settings_restored, found, kept):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", found or "")
    if found is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    if kept is None:
        with pytest.raises(InputError, match=r"--deterministic needs CUBLAS_WORKSPACE_CONFIG=:4096:8, .* has ':8:1'"):
            open_device("cuda", deterministic=True)
        return
    open_device("cuda", deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == kept
    assert torch.are_deterministic_algorithms_enabled()
    open_device("cuda")
    assert not torch.are_deterministic_algorithms_enabled()


def test_deterministic_refuses_an_npus_environment_that_says_otherwise(monkeypatch):
    for name in DETERMINISTIC_VARIABLES["npu"]:
        monkeypatch.setenv(name, DETERMINISTIC_VARIABLES["npu"][name][0])
    monkeypatch.setenv("HCCL_DETERMINISTIC", "false")
    with pytest.raises(
        InputError, match="--deterministic needs HCCL_DETERMINISTIC=true, but the environment has 'false'"
    ):
        open_device("npu", deterministic=True)


@pytest.fixture
def npu_package(monkeypatch):
    """Makes `import torch_npu` raise an error."""

    def install(error):
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "torch_npu":
                    raise error

        monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])

    return install


@pytest.mark.parametrize(
    ("error", "found"),
    [
        pytest.param(
            ImportError("libhccl.so: cannot open shared object file: No such file or directory"),
            r"CANN is not set up \(libhccl\.so not found\); source /usr/local/Ascend/cann/set_env\.sh",
            id="no-cann",
        ),
        pytest.param(
            ImportError("libascend_hal.so: cannot open shared object file"),
            r"no Ascend driver \(libascend_hal\.so not found\)",
            id="no-driver",
        ),
        pytest.param(ImportError("x.so: undefined symbol: _ZN2at"), "fits neither torch", id="undefined-symbol"),
        pytest.param(
            RuntimeError("Two accelerators cannot be used at the same time in PyTorch: npu and cuda. You can\nmore"),
            "is built for CUDA, which torch_npu refuses; install the CPU build",
            id="torch-for-cuda",
        ),
        pytest.param(ImportError(""), r"cannot be imported: ImportError\(", id="no-reason"),
        pytest.param(ImportError("no module named x"), "cannot be imported: no module", id="other-import-error"),
        pytest.param(RuntimeError("Initialize:aclInit failed"), "cannot be used: Initialize", id="cann-refuses"),
    ],
)
def test_a_broken_torch_npu_is_named_by_its_cause(npu_package, error, found):
    npu_package(error)
    with pytest.raises(InputError, match=found):
        open_device("npu")


INSTALL_INFO = f"{platform.machine()}-linux/ascend_toolkit_install.info"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({INSTALL_INFO: "package_name=toolkit\nversion=9.2.0\n"}, "9.2.0", id="install-info"),
        pytest.param(
            {"version.cfg": "runtime_running_version=[7.1:x]\ntoolkit_running_version=[7.3.0.1:8.0.RC2]\n"},
            "8.0.RC2",
            id="version-cfg",
        ),
        pytest.param({"version.cfg": "toolkit_installed_version=[8.3.RC1]\n"}, "8.3.RC1", id="version-cfg-short"),
        pytest.param({INSTALL_INFO: "nothing\n"}, "unknown", id="nothing-in-it"),
        pytest.param({}, "unknown", id="no-file"),
    ],
)
def test_the_version_of_cann_is_found_wherever_a_release_states_it(monkeypatch, tmp_path, files, expected):
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    monkeypatch.setattr(npu, "CANN_FOLDERS", ())
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert npu.cann_version() == expected


def test_the_version_of_the_driver_is_found_where_it_was_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(npu, "DRIVER_FOLDER", tmp_path / "Ascend")
    monkeypatch.setattr(npu, "DRIVER_INSTALL_INFO", tmp_path / "ascend_install.info")
    assert npu.driver_version() == "unknown"
    (tmp_path / "Ascend/driver").mkdir(parents=True)
    (tmp_path / "Ascend/driver/version.info").write_text("Version=25.2.0\nascendhal_version=7.35.23\n")
    assert npu.driver_version() == "25.2.0"
    (tmp_path / "elsewhere/driver").mkdir(parents=True)
    (tmp_path / "elsewhere/driver/version.info").write_text("Version=24.1.rc2\n")
    (tmp_path / "ascend_install.info").write_text(
        f"UserName=HwHiAiUser\nDriver_Install_Path_Param={tmp_path}/elsewhere\n"
    )
    assert npu.driver_version() == "24.1.rc2"


@pytest.mark.parametrize(
    ("memory", "dtype", "found"),
    [
        pytest.param((14_200_000_000, 64_000_000_000), "float16", None, id="fits"),
        pytest.param(
            (3_000_000_000, 64_000_000_000),
            "float16",
            "3.00 GB of 64.00 GB of its memory is free, the weights in float16 take 14.12 GB; another process holds",
            id="another-process",
        ),
        pytest.param(
            (11_000_000_000, 12_000_000_000), "float32", "; use a 16-bit --dtype, --tensor_p", id="narrower-may-fit"
        ),
        pytest.param((11_000_000_000, 12_000_000_000), "float16", "; use --tensor_parallel, or a", id="too-small"),
    ],
)
def test_too_little_memory_for_the_weights_is_told_with_its_cause(one_gpu, memory, dtype, found):
    one_gpu[:] = memory
    device = Device("cuda", torch.device("cuda", 0), "a card")
    if found is None:
        check_free_memory(device, 14_120_000_000, dtype)
        return
    with pytest.raises(InputError) as raised:
        check_free_memory(device, 14_120_000_000, dtype)
    assert str(raised.value).startswith("device cuda:0 (a card): ")
    assert found in str(raised.value)


@pytest.mark.parametrize(
    ("visible", "index", "count", "cards"),
    [
        pytest.param(None, 3, 1, ["3"], id="all-visible"),
        pytest.param("4,5,6,7", 1, 1, ["5"], id="some-visible"),
        pytest.param("4,5,6,7", 2, 2, ["6", "7"], id="a-replica-of-two"),
    ],
)
def test_cards_have_the_numbers_of_the_machine(monkeypatch, visible, index, count, cards):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = Device("cuda", torch.device("cuda", index), "A100")
    assert card_numbers(device, count) == cards
    assert name_of(device) == f"CUDA card {cards[0]} (A100)"
