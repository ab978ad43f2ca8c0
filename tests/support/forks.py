"""Processes that need not import torch again: forks of one that has imported all of the suite and computed nothing.

multiprocessing's fork server is that one, started once for each process of pytest.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from videobench.cli import run_script

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("torch", "torch.distributed.run", "run_gpu", "videobench.model.engine", "videobench.run.command"),
        *("transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama"),  # else in each start
        *("videobench.video.container", "videobench.compare.comparison", "videobench.report.page"),
    ]
)


def fork(
    target: Callable[..., int | None], *arguments: Any, err: Path | None = None, **environment: str
) -> ForkServerProcess:
    """A process that calls `target` and ends with the status that it returns; what it says goes to the file `err`."""
    process = CONTEXT.Process(target=_begin, args=(target, arguments, err or Path(os.devnull), environment))
    process.start()
    return process


def call_script(name: str, argv: list[str]) -> int:
    """As `python <name>.py` calls it: a target for `fork`."""
    script = importlib.import_module(name)
    return run_script(lambda: script.main(argv))


def _begin(
    target: Callable[..., int | None], arguments: tuple[Any, ...], err: Path, environment: dict[str, str]
) -> None:
    os.setsid()
    set_default_signals()
    file = os.open(err, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor, to in ((0, nowhere), (1, file), (2, file)):
        os.dup2(to, descriptor)
    tempfile.tempdir = None  # TMPDIR may be another one
    os.environ.update(environment, TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    sys.modules["torch"].set_num_threads(1)
    sys.exit(target(*arguments))


def set_default_signals() -> None:
    """As in a terminal, where the tests themselves were started by nohup or in the background: those ignore some."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
