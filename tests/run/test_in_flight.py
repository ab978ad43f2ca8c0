"""Notes of what was in flight when processes died. Whole runs that die: tests/faults/test_faults_kills.py."""

from pathlib import Path

import pytest

from videobench.errors import InputError
from videobench.run.journals import InFlight

ONE, TWO = Path("videos/one.mp4"), Path("videos/two.mp4")


@pytest.fixture
def note(tmp_path):
    """Makes the notes of a process of one job."""
    return lambda: InFlight(tmp_path, "MSVD")


def test_what_was_in_flight_at_the_end_is_known_until_the_job_is_done(note):
    note().take([ONE])
    second = note()
    assert second.read_deaths() == [str(ONE)]
    second.take([ONE])
    second.take([TWO])  # put down before it died
    assert note().read_deaths() == [str(ONE), str(TWO)]
    note().remove_all()
    assert note().read_deaths() == []


@pytest.mark.parametrize("ending", ["drop", "end"])
def test_an_orderly_end_blames_nothing(note, ending):
    ended = note()
    ended.take([ONE])
    getattr(ended, ending)()
    if ending == "end":
        ended.take([ONE])  # the main thread was about to
    assert note().read_deaths() == []


def test_a_note_that_was_cut_short_is_passed_over(note, tmp_path):
    note().take([ONE])
    [path] = (tmp_path / "journal").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert note().read_deaths() == []


def test_a_note_that_cannot_be_written_is_reported(note, tmp_path):
    (tmp_path / "journal").touch()
    with pytest.raises(InputError, match=r"\.json: cannot be written \(.*\); free space, then start again"):
        note().take([ONE])
