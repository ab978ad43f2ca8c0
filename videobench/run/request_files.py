"""The two files of exported requests, which an export that was stopped goes on with.

A request's line is written first, its facts with the place where it ends second, so that a start after any end goes on
behind the last whole pair.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from videobench.errors import InputError
from videobench.files import encode_json, parse_json

FIRST_BYTES = b'{"custom_id":'  # of each line of facts
Facts = dict[str, Any]
IsSeenVideo = Callable[[str, str, Any], bool]  # of a request's custom_id, its facts' video_sha256 and stamp


def facts_path(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.facts.jsonl")


@contextmanager
def writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another place") from None


class RequestFiles:
    """The requests and their facts, of which whole pairs alone are kept."""

    def __init__(
        self,
        path: Path,
        identity: Facts,
        runs: Mapping[str, Facts],
        is_seen_video: IsSeenVideo,
        overwrite: bool,
    ) -> None:
        """`identity` is of all requests, `runs` of each by its custom_id: those that are there already must share it.

        Raises InputError where they do not, and where a file is another one or was changed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._identity, self._runs, self._is_seen_video = path, identity, runs, is_seen_video
        self.done: set[str] = set()
        known = facts_path(path)
        for each in (path, known):
            if each.exists() and not each.is_file():
                raise InputError(f"{each}: not a regular file, which an export that goes on needs; choose another name")
        if not overwrite and path.exists() and path.stat().st_size and not known.exists():
            raise InputError(f"{path}: is there without its facts, {known.name}; choose another name, or --overwrite")
        self._facts = self._open(known)
        try:
            fcntl.flock(self._facts, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{path}: held by another export; wait for it, or choose another name") from None
        end, facts_end = (0, 0) if overwrite else self._find_end()
        self._requests = self._open(path)
        for file, size in ((self._requests, end), (self._facts, facts_end)):
            file.truncate(size)
            file.seek(size)

    def __enter__(self) -> "RequestFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._requests, self._facts):
            file.close()

    @staticmethod
    def _open(path: Path) -> BinaryIO:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666), "r+b")

    def _find_end(self) -> tuple[int, int]:
        """Of the requests and of the facts, behind the last whole pair."""
        end = facts_end = 0
        with open(self._path if self._path.exists() else os.devnull, "rb") as requests:
            size = os.fstat(requests.fileno()).st_size
            for line in self._facts:
                facts = _parse(line)
                its_end, key = facts.get("request_end"), str(facts.get("custom_id"))
                if not isinstance(its_end, int) or "identity" not in facts:
                    self._check_half(line)
                    break  # asked again from here on
                self._check(key, facts)
                if not end < its_end <= size:
                    break  # the disk lost its request
                if not _is_request(requests, end, its_end, key):
                    raise InputError(
                        f"{self._path}: changed since it was written, at the request of {key}; undo the change, choose "
                        "another name, or --overwrite"
                    )
                self.done.add(key)
                end, facts_end = its_end, facts_end + len(line)
        return end, facts_end

    def _check_half(self, line: bytes) -> None:
        """Of facts only a line that was cut off may be something else."""
        if line.endswith(b"\n") or not FIRST_BYTES.startswith(line[: len(FIRST_BYTES)]):
            known = facts_path(self._path)
            raise InputError(f"{known}: holds something else; choose another name for the requests, or --overwrite")

    def _check(self, key: str, facts: Facts) -> None:
        pairs: list[tuple[Any, Facts]] = [(facts["identity"], self._identity)]
        pairs += [(facts.get("run"), self._runs[key])] if key in self._runs else []
        for found, now in pairs:
            if found != now:
                former = found if isinstance(found, dict) else {}
                name = next(each for each in (*now, *former) if former.get(each) != now.get(each))
                what = f"{name} {former.get(name)!r:.40}, now {now.get(name)!r:.40}"
                raise InputError(
                    f"{self._path}: was begun with another {what}; use the former, another name, or --overwrite"
                )
        video_sha256 = str(facts.get("video_sha256"))
        if key in self._runs and not self._is_seen_video(key, video_sha256, facts.get("stamp")):
            raise InputError(
                f"{self._path}: the video of {key}, {facts.get('vid_path')}, has changed since; bring it back, choose "
                "another name, or --overwrite"
            )

    def append(self, pairs: Iterable[tuple[Facts, Facts]]) -> None:
        """Outlives this process when it returns."""
        facts = []
        for request, known in pairs:
            self._requests.write(encode_json(request) + b"\n")
            facts.append(known | {"request_end": self._requests.tell(), "identity": self._identity})
            self.done.add(known["custom_id"])
        self._flush(self._requests, os.fdatasync)
        self._facts.write(b"".join(encode_json(each) + b"\n" for each in facts))
        self._flush(self._facts, os.fdatasync)

    @staticmethod
    def _flush(file: BinaryIO, force: Callable[[int], None]) -> None:
        file.flush()
        force(file.fileno())


def _is_request(requests: BinaryIO, begin: int, end: int, key: str) -> bool:
    """By its first bytes and its last one."""
    start = encode_json({"custom_id": key})[:-1] + b","
    requests.seek(begin)
    is_its = requests.read(len(start)) == start
    requests.seek(end - 1)
    return is_its and requests.read(1) == b"\n"


def _parse(line: bytes) -> Facts:
    try:
        facts = parse_json(line.decode()) if line.endswith(b"\n") else None
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
