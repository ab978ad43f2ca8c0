"""Deaths are counted for what was in flight, and for nothing else."""

import resource
from io import FileIO
from pathlib import Path

import pytest

from videobench.errors import InputError
from videobench.jobs.crashes import Attempts

ONE, TWO = Path("videos/one.mp4"), Path("videos/two.mp4")


@pytest.fixture
def start(tmp_path):
    """A process of a start of one job: its notes, with the deaths that process 0 has counted."""

    def begin(*processes):
        notes = [Attempts(tmp_path, "MSVD", process) for process in processes]
        begun = notes[0].count_deaths()
        for each in notes:
            each.open(begun)
        return [begun, *notes]

    return begin


def test_in_flight_at_the_end_is_a_death(start):
    begun, first, second = start(0, 1)
    assert begun["deaths"] == {}
    first.take([ONE, TWO])
    second.take([TWO])  # of one start and group: one death
    begun, first = start(0)
    assert begun["deaths"] == {str(ONE): 1, str(TWO): 1}
    assert first.apart([ONE, TWO, Path("three")], lambda each: each) == [[Path("three")], [ONE], [TWO]]


def test_what_was_put_down_before_is_not_to_blame(start):
    _, notes = start(0)
    notes.take([ONE])
    notes.take([TWO])
    assert start(0)[0]["deaths"] == {str(TWO): 1}


@pytest.mark.parametrize("ending", ["drop", "end"])
def test_an_orderly_end_blames_nothing(start, ending):
    _, notes = start(0)
    notes.take([ONE])
    getattr(notes, ending)()
    if ending == "end":
        notes.take([ONE])  # the main thread was about to
    assert start(0)[0]["deaths"] == {}


def test_an_orderly_end_needs_no_room(start, tmp_path):
    _, notes = start(0)
    notes.take([ONE])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        notes.end()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert start(0)[0]["deaths"] == {}


def test_three_deaths_set_a_video_aside(start):
    for deaths in range(3):
        begun, notes = start(0)
        assert begun["deaths"] == ({str(ONE): deaths} if deaths else {})
        assert not notes.is_set_aside(ONE)
        notes.take([ONE])
    _, notes = start(0)
    assert notes.is_set_aside(ONE)
    assert not notes.is_set_aside(TWO)


def test_a_job_that_has_come_to_its_end_counts_from_zero(start):
    _, notes, other = start(0, 1)
    for each in (notes, other):
        each.take([ONE])
    notes.remove_all()
    assert start(0)[0]["deaths"] == {}


def test_a_line_that_was_cut_short_is_dropped(start, tmp_path):
    _, notes = start(0)
    notes.take([ONE])
    path = tmp_path / "journal/MSVD.attempts0.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert start(0)[0]["deaths"] == {}


@pytest.mark.parametrize("line", ["3", "[]", '"job"', "{}", '{"in_flight": 7}', "[" * 9999])
def test_a_line_that_is_no_note_is_passed_over(start, tmp_path, line):
    _, notes = start(0)
    notes.take([ONE])
    with (tmp_path / "journal/MSVD.attempts0.jsonl").open("a") as file:
        print(line, file=file)
    begun = start(0)[0]
    assert begun["deaths"] == {str(ONE): 1}


def test_notes_without_a_start_are_passed_over(start, tmp_path):
    start(0)
    (tmp_path / "journal/MSVD.attempts0.jsonl").write_text(f'{{"in_flight": ["{ONE}"]}}\n')
    assert start(0)[0]["deaths"] == {}


def test_notes_that_cannot_be_read_are_named(start, tmp_path):
    (tmp_path / "journal/MSVD.attempts0.jsonl").mkdir(parents=True)
    with pytest.raises(InputError, match=r"attempts0.jsonl: cannot be read \(Is a directory\); remove it"):
        start(0)


def test_a_full_disk_is_reported(start):
    _, notes = start(0)
    notes._file = FileIO("/dev/full", "w")
    with pytest.raises(InputError, match=r"attempts0.jsonl: cannot be written \(No space left on device\); free"):
        notes.take([ONE])
    notes.end()  # a signal comes all the same
