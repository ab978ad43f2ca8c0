"""One of two processes that claim numbers and wait for each other as those of a run do.

`mode` says what the second one, whose card is slow, does instead."""

import os
import signal
import time
from datetime import timedelta


def claim_numbers(mode, results):
    """Sends what it has claimed, or the error that it came to."""
    from videobench.errors import OtherProcessFailed, ProcessLost
    from videobench.jobs import job

    job.SILENCE_S, job.BEAT_S = 1.0, 0.1
    job._connect()
    job.CONNECT = timedelta(seconds=2)  # from here on
    is_second = os.environ["RANK"] == "1"
    if is_second and mode == "before-its-hello":
        job.stop_others()
        return
    if is_second and mode == "never-comes":
        signal.pause()  # it serves no store, and is as good as gone
    own, claimed = None, []
    try:
        own = job.Job.from_environment()
        sent = own.broadcast("numbers", [5, 7] if own.is_first else None)
        if is_second and mode == "silent":
            own.close()
            signal.pause()
        own.store.add("here", 1)  # both begin together
        own._poll(lambda: own.store.add("here", 0) == 2 or mode == "silent", range(2))
        for number in own.claim(40):
            claimed.append(number)
            if is_second and mode == "while-claiming":
                job.stop_others()
                return
            time.sleep(0.1 if is_second else 0.02)
        if is_second and mode == "while-waiting":
            own.wait_for("finished")
            job.stop_others()
            return
        own.wait_for_all()
        results.send([sent, claimed])
    except (OtherProcessFailed, ProcessLost) as error:
        results.send([type(error).__name__, len(claimed)])
    finally:
        if own is not None:
            own.close()
