"""Store the command that made a sample or a run next to its output, so that a comparison can say how to go on.

A stored command is not trusted: only this suite's scripts, in this suite's own folder, and variables that choose cards
and machines are accepted, and every word is quoted again.
"""

import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from videobench.errors import InputError
from videobench.files import read_json, write_json

ROOT = Path(os.path.abspath(__file__)).parent.parent
SAMPLER, COMPARISON = "extract_dataset.py", "precision_test.py"
RUNS = ("run_npu.py", "run_gpu.py")
LAUNCHERS = {"run_pa_videobench.sh": slice(4), "run_pa_videobench_gpu.sh": slice(1, 5)}  # arguments that are paths
TYPED = "VIDEOBENCH_COMMAND"  # set by the launchers: the words that the user typed, each followed by SEPARATOR
SEPARATOR = "\x1f"
CARDS = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES"}
VARIABLES = (*CARDS.values(), "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_ADDR")
MOST_PROCESSES = 1 << 10  # on one machine: more are a damaged file
SAMPLE_COMMAND_FILE = "sampling_command.json"  # beside sampling_answer.json


@dataclass(frozen=True)
class Command:
    script: str  # "run_npu.py"
    arguments: tuple[str, ...]  # with absolute paths
    launcher: str = ""  # "run_pa_videobench.sh", if that started the script
    launched: tuple[str, ...] = ()  # the launcher's own arguments
    environment: Mapping[str, str] = field(default_factory=dict)  # the VARIABLES that were set
    processes: int = 1  # started by torchrun without a launcher on this machine; 0: on several machines
    host: str = field(default_factory=platform.node)
    available: int = 0  # for a sample: how many questions it could draw from

    @property
    def is_local(self) -> bool:
        return self.host == platform.node()

    def flag(self, name: str) -> str | None:
        """Return the value of `--name`; the last one if it was given twice."""
        found = None
        for word, following in zip_longest(self.arguments, self.arguments[1:], fillvalue=""):
            if word == f"--{name}":
                found = following
            elif word.startswith(f"--{name}="):
                found = word.partition("=")[2]
        return found

    def without(self, *names: str, switches: Sequence[str] = ()) -> "Command":
        """Remove flags with their values (`names`) and flags without a value (`switches`)."""
        return self._changed(lambda words: _without(words, names, switches))

    def with_flag(self, name: str, value: object = None) -> "Command":
        """Add or replace a flag; without a value if `value` is None."""
        own = (f"--{name}",) if value is None else (f"--{name}", str(value))
        bare = self.without(switches=[name]) if value is None else self.without(name)
        return bare._changed(lambda words: (*words, *own))

    def with_variable(self, name: str, value: str) -> "Command":
        return replace(self, environment={**self.environment, name: value})

    def _changed(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> "Command":
        return replace(self, arguments=change(self.arguments), launched=change(self.launched) if self.launcher else ())

    def alone(self) -> "Command":
        """Change to the script itself in one process, without launcher."""
        cards = {name: value for name, value in self.environment.items() if name in CARDS.values()}
        return replace(self, launcher="", launched=(), environment=cards, processes=1)

    @property
    def text(self) -> str:
        """What to type in a shell, in any folder of the machine that ran it."""
        words = [f"{name}={quote(value)}" for name, value in self.environment.items()]
        if self.launcher:
            words += ["bash", self._place(self.launcher)]
        elif self.processes != 1:
            flags = ["--standalone", "--nproc_per_node", str(self.processes)] if self.processes else ["TORCHRUN_FLAGS"]
            words += ["torchrun", *flags, self._place(self.script)]
        else:
            words += [interpreter() if self.is_local else "python", self._place(self.script)]
        return " ".join([*words, *map(quote, self.launched if self.launcher else self.arguments)])

    def _place(self, script: str) -> str:
        return quote(str(ROOT / script)) if self.is_local else script


def _without(words: Sequence[str], names: Sequence[str], switches: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    is_value = False
    for word in words:
        name = word.partition("=")[0].removeprefix("--") if word.startswith("--") else ""
        if not is_value and name not in names and name not in switches:
            kept.append(word)
        is_value = not is_value and name in names and "=" not in word
    return tuple(kept)


def interpreter() -> str:
    """Return the Python that started this process: "python" as typed, a path as an absolute one."""
    typed = sys.orig_argv[0]
    return quote(sys.executable) if os.sep in typed else typed


def this_command(script: str, arguments: Sequence[str], absolute: Callable[[Sequence[str]], list[str]]) -> Command:
    """Build the command that started this process; `absolute` makes paths among flags absolute."""
    typed = os.environ.get(TYPED, "").split(SEPARATOR)[:-1]
    name = next((Path(word).name for word in typed if Path(word).name in LAUNCHERS), "")
    cards = _variables(os.environ, [*CARDS.values()]) if script in RUNS else {}
    own = Command(script, tuple(arguments), environment=cards)
    if not name or script not in RUNS:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return own
        here, everywhere = (os.environ.get(name, "1") for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        return replace(own, processes=int(here) if here == everywhere and here.isdecimal() else 0)
    place = next(index for index, word in enumerate(typed) if Path(word).name == name)
    before = dict(word.split("=", 1) for word in typed[:place] if "=" in word)
    words = typed[place + 1 :]
    words[LAUNCHERS[name]] = map(os.path.abspath, words[LAUNCHERS[name]])
    return replace(own, launcher=name, launched=tuple(absolute(words)), environment=_variables(before, VARIABLES))


def _variables(given: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: given[name] for name in names if name in given}


def keep_command(path: Path, command: Command) -> None:
    """Store a command, unless a path in it is not UTF-8, which JSON does not allow."""
    with suppress(UnicodeEncodeError):
        "".join([*command.arguments, *command.launched]).encode()
        write_json(path, asdict(command))


def read_command(path: Path) -> Command | None:
    """Read a stored command; None if there is none, or if this suite cannot have written it."""
    try:
        stored = read_json(path)
        return _checked(stored) if isinstance(stored, dict) else None
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _checked(stored: Mapping[str, Any]) -> Command:
    script, launcher, host = (_text(stored[name]) for name in ("script", "launcher", "host"))
    if script not in (SAMPLER, *RUNS) or launcher not in ("", *LAUNCHERS):
        raise ValueError("another program")
    arguments, launched = (tuple(map(_text, list.copy(stored[name]))) for name in ("arguments", "launched"))
    environment = {name: _text(value) for name, value in dict(stored["environment"]).items() if name in VARIABLES}
    processes, available = (int(stored[name]) for name in ("processes", "available"))
    if not 0 <= processes < MOST_PROCESSES:
        raise ValueError("no number of processes")
    return Command(script, arguments, launcher, launched, environment, processes, host, available)


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("no text")
    return value


def quote(word: str) -> str:
    """Quote any word for bash, on one line."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "'\\" else character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def fold(command: str, width: int = 80, indent: str = "    ") -> str:
    """Break a command into lines for a shell, between words and never inside quotes."""
    lines, line = list[str](), indent
    for word in split_words(command):
        if line.strip() and len(line) + 1 + len(word) > width - 2:
            lines.append(f"{line} \\")
            line = f"{indent}  "
        line += word if not line.strip() else f" {word}"
    return "\n".join([*lines, line])


def split_words(command: str) -> list[str]:
    """Split a command into its words, still quoted as by `quote`."""
    return re.findall(r"(?:\$'(?:[^'\\]|\\.)*'|'[^']*'|\"[^\"]*\"|[^\s'\"])+", command)
