"""Notes of what was in flight when processes died. Whole runs that die: tests/faults/test_faults_kills.py."""

import os
from pathlib import Path

import pytest

from videobench.errors import InputError
from videobench.run.journals import InFlight

ONE = Path("videos/one.mp4")


@pytest.fixture
def note(tmp_path):
    """Makes the notes of a process of one job."""
    return lambda: InFlight(tmp_path, "MSVD")


def test_a_note_counts_until_the_job_is_done_unless_it_was_cut_short(note, tmp_path):
    note().take([ONE])
    assert note().read_deaths() == [str(ONE)]
    [path] = (tmp_path / "journal").iterdir()
    for damaged in (path.read_bytes()[:-5], b"5", b"null"):
        path.write_bytes(damaged)
        assert note().read_deaths() == []
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"\.json: cannot be read \(Not a regular file\)"):
        note().read_deaths()


def test_a_note_that_cannot_be_written_is_reported(note, tmp_path):
    (tmp_path / "journal").touch()
    with pytest.raises(InputError, match=r"\.json: cannot be written \(.*\); free space, then start again"):
        note().take([ONE])
