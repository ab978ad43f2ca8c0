"""Check that the packages of a run are installed in supported releases. Reads their metadata: an import takes seconds,
and an unsupported release may fail anywhere in it with a misleading message."""

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from videobench.errors import InputError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"


def check_packages(kind: str) -> None:
    """Raises InputError, saying what is installed, what is needed and the fix. Checks the packages in requirements.txt,
    those that the installed transformers needs, and on an NPU torch_npu."""
    from packaging.requirements import Requirement  # comes with transformers

    install = f"pip install -r requirements{'-npu' if kind == 'npu' else ''}.txt"
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text("utf-8").splitlines())
    for needed in map(Requirement, filter(None, lines)):
        _check(needed, "", install)
    transformers = f" by transformers {installed_version('transformers')}"
    for needed in map(Requirement, importlib.metadata.requires("transformers") or ()):
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            _check(needed, transformers, f"pip install '{needed.name}{_bounds(needed)}'")
    if kind == "npu":
        _check_torch_npu(install)


def installed_version(name: str) -> str | None:
    """Return the installed version; None without metadata, as for a package that was built in place."""
    try:
        return importlib.metadata.version(name) or None  # None for a partly removed package
    except importlib.metadata.PackageNotFoundError:
        return None


def _check(needed: "Requirement", whose: str, fix: str) -> None:
    version, wanted = installed_version(needed.name), _bounds(needed) or "it"
    if version is None:
        if importlib.util.find_spec(needed.name.replace("-", "_")) is None:
            raise InputError(f"{needed.name} is not installed, {wanted} is needed{whose}; {fix}")
    elif not needed.specifier.contains(version, prereleases=True):
        raise InputError(f"{needed.name} {version} is installed, {wanted} is needed{whose}; {fix}")


def _bounds(needed: "Requirement") -> str:
    """Format version bounds, the lower one first: `>=4.56.2,<6`."""
    return ",".join(sorted(map(str, needed.specifier), reverse=True))


def _check_torch_npu(install: str) -> None:
    """Compare the versions of torch_npu and torch, which torch_npu does not do: a mismatch gives undefined symbols."""
    if importlib.util.find_spec("torch_npu") is None:
        raise InputError(f"device npu: torch_npu is not installed; {install}, or run with --device cpu")
    npu_version, torch_version = installed_version("torch_npu"), installed_version("torch")
    if npu_version and torch_version and _release(npu_version) != _release(torch_version):
        wanted, present = _release(npu_version), _release(torch_version)
        raise InputError(
            f"device npu: torch_npu {npu_version} needs torch {wanted}, but torch {torch_version} is installed; "
            f"pip install torch_npu=={present}, or torch=={wanted} for this torch_npu"
        )


def _release(version: str) -> str:
    """`2.13.0+cpu`, `2.13.0.post2`, `2.13.0rc1` -> `2.13.0`."""
    return ".".join(re.findall(r"\d+", version.split("+")[0])[:3])
