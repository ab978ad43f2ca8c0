"""`--check_device`: is the device set up for a run, and does it compute and communicate correctly?

One process for each visible card opens it as a run does."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from videobench.cli import run_script
from videobench.console import in_bytes, warn_once
from videobench.device import npu
from videobench.device.devices import (
    BACKENDS,
    TOOLS,
    VISIBLE,
    Device,
    count_cards,
    kind_to_use,
    memory_bytes,
    open_device,
    visible_cards,
)
from videobench.device.packages import installed_version
from videobench.errors import InputError
from videobench.jobs.processes import start_child
from videobench.run.options import DTYPES, CheckSettings
from videobench.tolerances import TOLERANCES

CPU_PROCESSES = 2  # a collective of one process tests nothing
MATRIX_SIZE = 512
TIMEOUT_S = 600.0  # enough for eight processes to read torch from a cold disk, and for HCCL's limit of 120 s to connect
POLL_S = 0.1


def check_device(settings: CheckSettings) -> int:
    """Return 0, or 1 if an operator deviates; raise InputError with the fix at the first thing that fails."""
    if int(os.environ.get("RANK", "0")) > 0:
        return 0  # started by torchrun: the first process checks all cards
    kind = kind_to_use(settings.device, settings.may_use_cpu)
    settings = replace(settings, device=kind)
    count = CPU_PROCESSES if kind == "cpu" else count_cards(kind)
    found = f"{os.cpu_count()} cores" if kind == "cpu" else f"{count} visible ({visible_cards(kind)})"
    print(f"device {kind}: {found}")
    print(", ".join(f"{name} {version}" for name, version in _versions(kind).items()))
    with tempfile.TemporaryDirectory() as folder:
        reports = _run_processes(settings, count, Path(folder))
    for line in dict.fromkeys(line for report in reports for line in report["warnings"]):
        warn_once(line)
    for report in reports[:1] if kind == "cpu" else reports:
        print(f"{report['device']} {report['name']}: {in_bytes(report['free'])} of {in_bytes(report['total'])} free")
        differences = report["differences"].items()
        shown = [f"{dtype} {'not on this card' if each is None else f'{each:.1e}'}" for dtype, each in differences]
        print(f"  matrix product, difference from the CPU's: {', '.join(shown)}")
        for line in report["operators"]:
            print(f"  {line}")
    print(f"all-reduce over {count} {'processes' if kind == 'cpu' else 'cards'} ({BACKENDS[kind]}): right on each")
    if deviating := sum(report["deviating"] for report in reports):
        counted = "1 operator deviates" if deviating == 1 else f"{deviating} operators deviate"
        print(f"{counted} from the CPU's; whether it matters to a model: --check_model")
        return 1
    print("all checks passed")
    return 0


def _versions(kind: str) -> dict[str, str]:
    import torch

    found: dict[str, str] = {"Python": sys.version.split()[0], "torch": torch.__version__}
    found["transformers"] = installed_version("transformers") or npu.UNKNOWN
    found["PyAV"] = installed_version("av") or npu.UNKNOWN
    if kind == "npu":
        versions = npu.versions()
        found |= {"torch_npu": versions["torch_npu"], "CANN": versions["cann"], "driver": versions["npu_driver"]}
    if kind == "cuda":
        found["CUDA"] = str(torch.version.cuda)
    return found


# --- The processes, as the first one sees them ---


def _run_processes(settings: CheckSettings, count: int, folder: Path) -> list[dict[str, Any]]:
    processes = [_start_process(settings, index, count, folder) for index in range(count)]
    reports: dict[int, dict[str, Any]] = {}
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while running := [index for index in range(count) if index not in reports]:
            for index in running:
                if (status := processes[index].poll()) is not None:
                    reports[index] = _report(index, status, folder)  # one failure ends all, which would wait
            if time.monotonic() > deadline and len(reports) < count:
                late = f"device {settings.device}:{running[0]}: no answer in {TIMEOUT_S:g} s"
                raise InputError(f"{late}; {_link_fix(settings.device)}")
            time.sleep(POLL_S)
        return [reports[index] for index in range(count)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _report(index: int, status: int, folder: Path) -> dict[str, Any]:
    """Parse what a process found from its last line, and add its warnings; raise InputError if it failed."""
    output, messages = (
        [line for line in (folder / f"{index}.{name}").read_text().splitlines() if line.strip()]
        for name in ("out", "err")
    )
    if status == 0 and output:
        return dict(json.loads(output[-1])) | {"warnings": [line for line in messages if line.startswith("warning:")]}
    raise InputError([f"process {index} ended with status {status}", *messages][-1].removeprefix("error: "))


def _start_process(settings: CheckSettings, index: int, count: int, folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "videobench.run.device_check", settings.device, str(int(settings.deterministic))]
    command += [str(index), str(count), str(folder / "store")]
    with (folder / f"{index}.out").open("w") as output, (folder / f"{index}.err").open("w") as errors:
        return start_child(command, stdout=output, stderr=errors)


# --- In each process ---


def main(argv: Sequence[str] | None = None) -> int:
    """Check one card and print one line of JSON.

    Arguments: kind, deterministic (0 or 1), index, count, and the file through which the processes meet."""
    kind, deterministic, index, count, store = sys.argv[1:] if argv is None else argv
    device = open_device(kind, 0 if kind == "cpu" else int(index), deterministic == "1")
    free, total = memory_bytes(device)
    report = {"device": str(device.torch_device), "name": device.name, "free": free, "total": total}
    report["differences"] = {dtype: _check_product(device, dtype) for dtype in DTYPES}
    _check_all_reduce(device, int(index), int(count), store)
    report["operators"], report["deviating"] = _check_operators(device) if index == "0" else ([], 0)
    print(json.dumps(report), flush=True)
    return 0


def _check_product(device: Device, dtype: str) -> float | None:
    """Largest difference from the CPU's product, over its largest entry; None if the card lacks the dtype."""
    import torch

    if not _has(device, dtype):
        return None
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(MATRIX_SIZE, MATRIX_SIZE, generator=generator).to(getattr(torch, dtype)) for _ in range(2)
    )
    expected = left.float() @ right.float()
    try:
        found = (left.to(device.torch_device) @ right.to(device.torch_device)).cpu().float()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        fix = f"check {TOOLS[device.kind]}" if device.kind in TOOLS else "install torch again"
        if "libopapi" in reason:  # the library in which torch_npu finds CANN's operators
            fix = "install CANN's package of operators (ops, before CANN 8.5 kernels) for this card, of CANN's version"
        raise InputError(f"device {device.torch_device}: no matrix product in {dtype}: {reason}; {fix}") from None
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCES[dtype].product:
        raise InputError(
            f"device {device.torch_device}: the matrix product in {dtype} is off by {difference:.1e} of its largest "
            f"entry, more than {TOLERANCES[dtype].product:g}; install releases that fit each other (README.md, install)"
        )
    return difference


def _check_operators(device: Device) -> tuple[list[str], int]:
    """Return the lines to print and how many operators deviate. Only on the first card: it costs the host time."""
    if device.kind == "cpu":
        return [], 0  # the CPU is what the others are compared with
    import torch

    from videobench.locate.operators import check_operators

    dtypes = [dtype for dtype in DTYPES if _has(device, dtype)]
    found = {dtype: check_operators(device.torch_device, getattr(torch, dtype)) for dtype in dtypes}
    deviating = [f"operator deviates: {line}" for lines, _ in found.values() for line in lines]
    agree = ", ".join(f"{dtype} {largest:.2f}" for dtype, (_, largest) in found.items())
    which = "the others" if deviating else "all"
    last = f"operators of a 7B model: {which} agree with the CPU's (times the tolerance: {agree})"
    named = {line.partition(f", {dtype}: ")[0] for dtype, (lines, _) in found.items() for line in lines}
    return [*deviating, last], len(named)


def _has(device: Device, dtype: str) -> bool:
    """Whether the card has the dtype: those of the first generation lack bfloat16."""
    import torch

    return dtype != "bfloat16" or device.kind == "cpu" or bool(getattr(torch, device.kind).is_bf16_supported())


def _check_all_reduce(device: Device, index: int, count: int, store: str) -> None:
    import torch
    from torch import distributed

    backend = BACKENDS[device.kind]
    where = f"device {device.torch_device}: all-reduce over {count} ({backend})"
    try:
        distributed.init_process_group(
            backend, init_method=f"file://{store}", rank=index, world_size=count, timeout=timedelta(seconds=TIMEOUT_S)
        )
        numbers = torch.full((MATRIX_SIZE,), index + 1.0, device=device.torch_device)
        distributed.all_reduce(numbers)
        found = numbers.cpu()
        distributed.destroy_process_group()
    except RuntimeError as error:
        raise InputError(f"{where} failed: {str(error).splitlines()[0]}; {_link_fix(device.kind)}") from None
    expected = count * (count + 1) / 2
    if not bool((found == expected).all()):
        raise InputError(f"{where} gave {found[0]} instead of {expected}; {_link_fix(device.kind)}")


def _link_fix(kind: str) -> str:
    if kind == "cpu":
        return "check that processes of this machine may connect to each other"
    first = (os.environ.get(VISIBLE[kind]) or "0").split(",")[0]
    return f"check {TOOLS[kind]} and the links between the cards, or run on one: export {VISIBLE[kind]}={first}"


if __name__ == "__main__":
    sys.exit(run_script(main))
