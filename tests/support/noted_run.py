"""run_gpu.py in a fork (tests/support/forks.py) that notes each batch."""

import os

from tests.support.forks import call_script, fork


def run_noted(argv, log, stop=None):
    """The exit status, and how many questions each batch had that was given to the engine.

    With `stop`, (batch, signal), the process gets that signal at that batch. The sizes go through the file `log`."""
    log.write_text("")
    process = fork(run, argv, log, stop)
    process.join()
    return process.exitcode, [int(size) for size in log.read_text().split()]


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
