"""Compiles csrc/sim_npu.cpp with g++, once for each source and torch, into a folder of this user."""

import fcntl
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCES = Path(__file__).with_name("csrc")


def build() -> Path:
    """The shared library. A process that comes while another compiles waits for it."""
    folder = _cache_folder()
    library = folder / f"sim_npu-{_fingerprint()}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            part = library.with_suffix(".part")
            subprocess.run(_command(part), check=True)
            part.replace(library)
    return library


def _cache_folder() -> Path:
    """Only this user may write into it: the process loads what is there."""
    # The launchers give each job a folder for temporary files of its own: there, each would compile again.
    folder = Path(os.environ.get("SIM_NPU_TMPDIR") or tempfile.gettempdir()) / f"sim_npu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder}: belongs to another user")
    return folder


def _fingerprint() -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _command(library: Path) -> list[str]:
    root = Path(torch.__file__).parent
    return [
        *("g++", "-O0", "-g0", "-std=c++20", "-fPIC", "-shared"),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        *("-isystem", f"{root}/include", "-isystem", f"{root}/include/torch/csrc/api/include"),
        *(f"{SOURCES}/sim_npu.cpp", "-o", str(library), f"-L{root}/lib", "-lc10", "-ltorch_cpu"),
    ]
