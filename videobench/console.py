"""Format terminal output for people: one-line messages, progress, sizes with units."""

import os
import shutil
import sys
import time

MOST_SHOWN = 8000  # characters of a message: a name in a file may be megabytes long


def visible(text: str) -> str:
    """Escape all characters that could break a line or control the terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def one_line(text: str) -> str:
    """Put a text on one visible line, shortened in the middle if it is too long."""
    text = visible(" ".join(line.strip() for line in text.splitlines()))
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN // 2]} ... {text[-MOST_SHOWN // 2 :]}"


def warn_once(line: str) -> None:
    """Print to stderr from process 0 only, for warnings that concern every process."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)


class StatusLine:
    """Progress on stderr: one updated line on a terminal, a new line every minute in a log file."""

    LOG_EVERY_S, SHOW_EVERY_S = 60.0, 0.1

    def __init__(self) -> None:
        from tqdm import tqdm  # not needed by scripts without progress

        self._line = tqdm(bar_format="{desc}", leave=False, file=sys.stderr, disable=None)
        self._said = time.monotonic()

    def show(self, line: str) -> None:
        is_terminal = not self._line.disable
        if time.monotonic() - self._said < (self.SHOW_EVERY_S if is_terminal else self.LOG_EVERY_S):
            return
        self._said = time.monotonic()
        if is_terminal:
            self._line.set_description_str(line[: shutil.get_terminal_size().columns - 1])
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._line.close()


def in_bytes(count: float) -> str:
    """`0.61 GB`, `9.44 MB`."""
    unit, size = ("GB", 1e9) if count >= 1e8 else ("MB", 1e6)
    return f"{count / size:.2f} {unit}"


def in_time(seconds: float) -> str:
    """`2.3 h`, `5 min`, `12 s`."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
