"""Errors that the suite expects; cli.py turns them into exit statuses."""

from collections.abc import Sequence


class InputError(Exception):
    """A wrong file, flag or environment: one line that names it, what was found, and the fix. Exit status 2.

    `commands` fix it; they are printed below the line, ready for a shell."""

    def __init__(self, text: str, commands: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.commands = commands


class OutOfMemory(InputError):
    """A device has too little memory for the weights."""


class DeviceLost(InputError):
    """The device no longer responds; a fresh process may recover it."""


class ProcessLost(InputError):
    """Another process of this job no longer responds. All processes end then: torchrun does not let a machine rejoin a
    running job (torch 2.13, DynamicRendezvousHandler)."""


class VideoError(Exception):
    """One video, named in the message, is faulty: its questions fail, the run goes on. Exit status 1."""


class OtherProcessFailed(Exception):
    """Another process of this job has ended with an InputError, which it has printed."""
