"""Replies that name no question of ours -> their questions, by text and video."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from videobench.data.replies import Reply

SHOWN_KEYS = 3


@dataclass(frozen=True)
class Unnamed:
    """A reply of another engine that does not name its question."""

    text: str  # of the question as it was asked, with options and instruction, in any form
    videos: Sequence[str]  # paths or addresses that may be the video's; none where the line names none
    row: dict[str, Any]  # as in a result file


@dataclass(frozen=True)
class _Known:
    reply: Reply
    pieces: tuple[str, ...]  # the question alone and each option, folded
    asked: re.Pattern[str]  # finds the question alone
    listed: tuple[re.Pattern[str], ...]  # find the options, each behind its letter

    def is_in(self, text: str) -> bool:
        """The options in any order, as the benchmark's files have them. Each is taken where it comes first, so that no
        text takes long."""
        if not (found := self.asked.search(text)):
            return False
        return all(each.search(text, found.end()) for each in self.listed)


class Questions:
    """The questions of the other side's replies, or of the facts of exported requests."""

    def __init__(self, replies: Iterable[Reply]) -> None:
        self._by_video: dict[str, list[_Known]] = {}
        for reply in replies:
            own, options = _folded(reply.own_question), {key: _folded(each) for key, each in reply.options.items()}
            if own:
                listed = [rf"\b{letter.lower()}\b[\s.):]*{re.escape(each)}(?!\w)" for letter, each in options.items()]
                asked, *labelled = map(re.compile, [re.escape(own), *listed])
                known = _Known(reply, (own, *options.values()), asked, tuple(labelled))
                self._by_video.setdefault(PurePosixPath(reply.vid_path).name, []).append(known)

    def find(self, unnamed: Unnamed) -> list[Reply]:
        """The reply to that question; several where they are one and the same question on one video, so that it does
        not matter which, none where it is not known. ValueError where it may be any of different ones."""
        text = _folded(unnamed.text)
        named = [name for name in map(_file_name, unnamed.videos) if name in self._by_video]
        if unnamed.videos and not named:
            return []
        places = dict.fromkeys(named) or self._by_video
        found = [each for name in places for each in self._by_video[name] if each.is_in(text)]
        # Of "what is it" and "what is it doing", or of two options and three, the longer one was asked.
        lengths = [sum(map(len, each.pieces)) for each in found]
        found = [each for each, length in zip(found, lengths, strict=True) if length == max(lengths)]
        if len({(each.reply.vid_path, each.pieces) for each in found}) > 1:
            keys = [f"{each.reply.dataset}/{each.reply.id}" for each in found]
            more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
            raise ValueError(
                f"may answer {', '.join(keys[:SHOWN_KEYS])}{more}: the text fits each; have the lines name their video"
            )
        return [each.reply for each in found]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _file_name(path: str) -> str:
    return PurePosixPath(path.split("?")[0]).name
