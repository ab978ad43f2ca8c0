"""Find missing videos: at another level of the folders, or still in an archive."""

import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from videobench.commands import interpreter, quote
from videobench.data.dataset import VIDEOS_NAME, Question, VideoRoot
from videobench.files import open_regular

# `MSVD.zip`, `MSVD.tar.gz`, and parts of split archives: `MSVD.zip.001`, `MSVD.tar.gz.aa`, `MSVD.zip.part-01`.
ARCHIVE = re.compile(
    r"(.+?\.(?:zip|tgz|tar\.(?:gz|bz2|xz)|tar))(?:(\.(?:part[-_.]?)?)(?:\d+|[a-z]{2}))?", re.IGNORECASE
)
ZIP_MAGIC, SPLIT_ZIP_MAGIC = b"PK\x03\x04", b"PK\x07\x08"
LEVELS = 3  # folders above a video to search for archives: its set's, Eval_video, and the root
MOST_NAMED = 6  # archives in one message


def place_hint(missing: Iterable[tuple[VideoRoot, Question]]) -> str:
    """Suggest how to fix missing videos, for the end of a message: another path, or commands; "" if there is none."""
    first: dict[Path, tuple[VideoRoot, Question]] = {}  # the first missing video of each folder
    for root, question in missing:
        first.setdefault(question.video.parent, (root, question))
    hints = [*dict.fromkeys(hint for root, question in first.values() if (hint := _hint(root, question)))]
    more = [f"and {len(hints) - MOST_NAMED} more such folders"] if len(hints) > MOST_NAMED else []
    return "; ".join(hints[:MOST_NAMED] + more)


def _hint(root: VideoRoot, question: Question) -> str:
    parts, folder = PurePosixPath(question.vid_path).parts, Path(os.path.abspath(root.folder))
    if root.skipped_parts:
        above = [folder.parent / VIDEOS_NAME, *folder.parent.glob(f"*/{VIDEOS_NAME}")]
        others, kept = [each / folder.name for each in above], parts[root.skipped_parts :]
    else:
        others, kept = [*folder.parents[:2], *(folder / name for name in _names_in(folder))], parts
    for other in others:
        if os.path.exists(other.joinpath(*kept)):  # False if access is denied, as to lost+found
            return f"the videos are below {other}: give that in place of {root.folder}"
    if os.path.isdir(deeper := question.video.parent / question.video.parent.name):
        return f"there is a folder {deeper}: move what it holds one level up"
    if not root.skipped_parts and os.path.exists(folder.joinpath(*parts[1:])):
        return f"the folders of the sets are in {folder} itself: move them into a folder {VIDEOS_NAME} there"
    return unpacking(question.video)


def _names_in(folder: Path) -> list[str]:
    with suppress(OSError):
        return sorted(os.listdir(folder))
    return []


def unpacking(video: Path) -> str:
    """List archives near a missing video that may hold it, with the commands that unpack them to the right place."""
    found: list[str] = []
    for place in video.parents[:LEVELS]:
        names = _names_in(place)
        archives: dict[str, str] = {}  # archive -> prefix of its parts' names, "" if not split
        for match in filter(None, map(ARCHIVE.fullmatch, names)):
            archives.setdefault(match[1], match[1] + match[2] if match[2] else "")
        for name, prefix in archives.items():
            first = next(each for each in names if each.startswith(prefix or name))
            if (spanned := Path(name).with_suffix(".z01").name) in names:
                first = spanned  # first volume of a multi-volume zip, whose last is .zip
            if target := _target(video, place / name, _first_folder(place / first)):
                found.append(f"{place / name} may hold it: {_command(place / name, prefix, target)}")
    return "; ".join(found)


def _target(video: Path, archive: Path, folder: PurePosixPath | None) -> Path | None:
    """Return where to unpack an archive whose first entry is in `folder`, so that the folder of `video` is in place
    afterwards; None if the archive holds other folders."""
    if folder is None or not folder.parts:
        fits = archive.parent == video.parent or archive.name.partition(".")[0] == video.parent.name
        return video.parent if fits else None
    for target in video.parents[:LEVELS]:
        below = video.parent.relative_to(target).parts
        if below[: len(folder.parts)] == folder.parts:
            return target
    return None


def _first_folder(archive: Path) -> PurePosixPath | None:
    """Return the folder of an archive's first entry; None if the archive cannot be read."""
    with suppress(OSError, tarfile.TarError, zlib.error, EOFError, struct.error), open_regular(archive) as file:
        head = file.read(30 + 4 + 1024)
        head = head.removeprefix(SPLIT_ZIP_MAGIC)
        if head.startswith(ZIP_MAGIC):
            [length] = struct.unpack_from("<H", head, 26)
            return _folder_of(head[30 : 30 + length].decode("utf-8", "replace"))
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            entry = tar.next()
            return _folder_of(entry.name + "/" * entry.isdir()) if entry else None
    return None


def _folder_of(entry: str) -> PurePosixPath:
    return PurePosixPath(entry) if entry.endswith("/") else PurePosixPath(entry).parent


def _command(archive: Path, prefix: str, target: Path) -> str:
    whole, place = quote(str(archive)), quote(str(target))
    join = f"cat {quote(str(archive.with_name(prefix)))}* > {whole} && " if prefix else ""
    if archive.suffix.lower() != ".zip":
        return f"{join}mkdir -p {place} && tar -xf {whole} -C {place}"
    if archive.with_suffix(".z01").exists():
        return f"7z x {whole} -o{place}"
    return f"{join}{interpreter()} -m zipfile -e {whole} {place}"
