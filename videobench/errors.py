"""The faults that the suite expects; cli.py turns them into exit statuses."""


class InputError(Exception):
    """A wrong file, flag or environment: one line that names it, what was found, and the mend. Exit status 2."""


class DeviceLost(InputError):
    """A device that answers nothing any more: a new process may find it well again."""


class ProcessLost(InputError):
    """Another process of this job that gives no sign of life any more. All end then: torchrun of today does not let a
    machine that comes anew into a job that has been running (torch 2.13, DynamicRendezvousHandler)."""


class VideoError(Exception):
    """A fault in one video, named with its file: its questions fail for this reason, the run goes on. Exit status 1."""


class OtherRankFailed(Exception):
    """Another process of this job has ended with an InputError, which it has printed."""
