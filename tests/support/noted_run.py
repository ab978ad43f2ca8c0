"""run_gpu.py in a fork (tests/support/forks.py) that notes each batch."""

import os
from pathlib import Path

from tests.support.forks import call_script, fork


class NotedRuns:
    """Starts runs that add a line with its size to the file `log` for every batch that is given to the engine."""

    def __init__(self, log: Path):
        self._log = log

    def finish(self, argv, stop=None):
        """The exit status. With `stop`, (batch, signal), the process gets that signal at that batch."""
        process = fork(run, argv, self._log, stop)
        process.join()
        return process.exitcode

    def computed(self):
        """Questions given to the engine since the last call."""
        return sum(self.computed_batches())

    def computed_batches(self):
        """The same, batch by batch."""
        sizes = [int(size) for size in self._log.read_text().split()] if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return sizes


def run(argv, log, stop):
    from videobench.model.engine import Engine

    answer, calls = Engine.answer, []

    def noted(self, videos, batch_size):
        with log.open("a") as file:
            print(sum(len(video.prompts) for video in videos), file=file)
        calls.append(len(videos))
        if stop and len(calls) == stop[0]:
            os.kill(os.getpid(), stop[1])
        return answer(self, videos, batch_size)

    Engine.answer = noted
    return call_script("run_gpu", argv)
