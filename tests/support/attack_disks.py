"""File systems that are full at random sizes, by bytes and by inodes; then there is room again, and all goes on."""

import random
import shutil
import subprocess
from pathlib import Path

from tests.support.attack_tools import (
    Attack,
    Start,
    compare_argv,
    contents,
    finish,
    first_fault,
    measure,
    new_bench,
    rows_of,
    sample_argv,
    stored_keys,
)

PAGE = 4096  # the smallest step of a file system in memory
ROOM = "size=64m,nr_inodes=10000"


def mount(folder: Path, options: str) -> str:
    """What went wrong, as where this user has no right to."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    return done.stderr.strip() if done.returncode else ""


def may_mount(folder: Path) -> bool:
    folder.mkdir(exist_ok=True)
    if mount(folder, "size=64k"):
        return False
    subprocess.run(["umount", folder], check=True)
    return True


def disks(folder: Path, number: int, seed: int) -> Attack:
    """A sampling, a run and a comparison in turn, each into a file system of its own."""
    bench, source, said = new_bench(folder / "bench", 12), random.Random(seed), folder / "said"
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json", output_sequence=["B"])
    disk = folder / "disk"
    disk.mkdir()
    out = disk / "written"
    run = bench.run_flags("--chat_conversation_output_folder", out)
    starts = {"extract_dataset": sample_argv(bench, out), "run_gpu": run, "precision_test": compare_argv(bench, out)}
    expected, needed = {}, {}
    for script, argv in starts.items():
        measure(script, argv, said)
        expected[script] = rows_of(out / f"{bench.result.name}") if script == "run_gpu" else contents(out)
        files = [path for path in disk.rglob("*") if path.exists()]
        needed[script] = (sum(-(-path.stat().st_size // PAGE) for path in files if path.is_file()), len(files))
        shutil.rmtree(out)
    for index in range(number):
        script = list(starts)[index % len(starts)]
        pages, inodes = needed[script]
        by_bytes = index // len(starts) % 2 == 0
        size = f"size={source.randint(1, pages) * PAGE}" if by_bytes else f"nr_inodes={source.randint(2, inodes + 1)}"
        yield _fill(disk, size, script, starts[script], said, expected[script], bench.result.name)


def _fill(
    disk: Path, size: str, script: str, argv: list[str], said: Path, expected: object, result: str
) -> tuple[str, str]:
    out = disk / "written"
    fault = mount(disk, size)
    assert not fault, fault
    try:
        status, fault = Start(script, argv, said).end()
        kept = stored_keys(out) if script == "run_gpu" and out.exists() else []
        subprocess.run(["mount", "-o", f"remount,{ROOM}", disk], check=True)
        again = finish(script, argv, said)
        found = (rows_of(out / result) if script == "run_gpu" else contents(out)) if not again else None
        stored = stored_keys(out) if script == "run_gpu" else []
        return f"full disk ({size.partition('=')[0]}), {script}.py", first_fault(
            (not fault, f"{size}: {fault}"),
            (status in (0, 2), f"{size}: status {status}"),
            (not again, f"{size}, then room: {again}"),
            (stored[: len(kept)] == kept, f"{size}: a stored reply was lost"),
            (found == expected, f"{size}: another result than undisturbed"),
        )
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
