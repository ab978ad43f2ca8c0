"""kill -9 at random moments: over a sampling, a run of one process, jobs of one to three, a comparison."""

import json
import random
import shutil
from pathlib import Path

from tests.support.attack_tools import (
    Attack,
    Start,
    compare_argv,
    contents,
    finish,
    first_fault,
    measure,
    moments,
    new_bench,
    rows_of,
    sample_argv,
    stored_keys,
)
from tests.support.jobs import Jobs, kill

MOST_PROCESSES = 3


def kills(folder: Path, number: int, seed: int) -> Attack:
    """In turn over each kind."""
    kinds = [
        _files(folder / "sampling", "extract_dataset", seed),
        _run(folder / "run", seed),
        *(_job(folder / f"job {count}", count, seed) for count in range(1, MOST_PROCESSES + 1)),
        _files(folder / "comparison", "precision_test", seed),
    ]
    for index in range(number):
        yield next(kinds[index % len(kinds)])
    for each in kinds:
        each.close()


def _files(folder: Path, script: str, seed: int) -> Attack:
    """Of a sampling or a comparison: a file is whole or not there, and the next start ends as an undisturbed one."""
    bench, out = new_bench(folder, 12), folder / "written"
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json", output_sequence=["B"])
    argv = (sample_argv if script == "extract_dataset" else compare_argv)(bench, out)
    moment = moments(seed, measure(script, argv, folder / "said"))
    expected = contents(out)
    while True:
        shutil.rmtree(out)
        start = Start(script, argv, folder / "said")
        start.kill(moment())
        found = contents(out) if out.exists() else {}
        whole = {name: content for name, content in found.items() if not name.endswith(".part")}
        fault = finish(script, argv, folder / "said")
        yield (
            f"kill -9 of {script}.py",
            first_fault(
                (whole.items() <= expected.items(), "a file that was not whole had its name"),
                (not fault, fault),
                (contents(out) == expected, "another result than undisturbed"),
            ),
        )


def _run(folder: Path, seed: int) -> Attack:
    bench = new_bench(folder, 12)
    argv = bench.run_flags()
    moment = moments(seed, measure("run_gpu", argv, folder / "said"))
    expected, out = bench.result.read_bytes(), folder / "out"
    while True:
        shutil.rmtree(out)
        Start("run_gpu", argv, folder / "said").kill(moment())
        kept = stored_keys(out)
        fault = finish("run_gpu", argv, folder / "said")
        yield (
            "kill -9 of run_gpu.py",
            first_fault(
                (not fault, fault),
                (stored_keys(out)[: len(kept)] == kept, "a stored reply was lost"),
                (len(stored_keys(out)) == len(json.loads(expected)), "a reply was stored twice"),
                (bench.result.read_bytes() == expected, "another result than undisturbed"),
            ),
        )


def _job(folder: Path, processes: int, seed: int) -> Attack:
    """One process of a job, its torchrun, or all of them."""
    bench, source, out = new_bench(folder, 12), random.Random(seed), folder / "out"
    argv = bench.run_flags()
    moment = moments(seed, measure("run_gpu", argv, folder / "said"))
    expected = rows_of(bench.result)
    jobs, turn = Jobs(folder / "jobs"), 0
    while True:
        shutil.rmtree(out)
        job, victim = jobs.start(argv, processes), source.choice(["a process", "torchrun", "all"])
        job.process.join(moment())
        ranks = job.ranks()
        for each in {"a process": ranks[:1], "torchrun": [job.process.pid]}.get(victim, [job.process.pid, *ranks]):
            kill(each, 9)
        job.process.join(60)
        kept = stored_keys(out)
        ended = jobs.start(argv, processes)
        status = ended.wait()
        turn += 1
        keys = stored_keys(out)
        yield (
            f"kill -9 in a job of {processes}",
            first_fault(
                (not job.is_running(), f"{victim} killed: it did not end"),
                (status == 0, f"{victim} killed, status {status}: {ended.err[-400:]}"),
                (set(kept) <= set(keys), "a stored reply was lost"),
                (sorted(keys) == sorted(expected), "a reply was stored twice, or not at all"),
                (bench.result.exists() and rows_of(bench.result) == expected, "another result than undisturbed"),
            ),
        )
        shutil.rmtree(folder / "jobs")
