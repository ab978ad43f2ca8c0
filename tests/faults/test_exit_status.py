"""How a script's end becomes an exit status, and the status of a job of several processes."""

import pytest

from videobench.cli import UNFORESEEN, FlagParser, run_script
from videobench.errors import DeviceLost, InputError


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")


@pytest.fixture
def status_file(tmp_path, monkeypatch):
    """As the launchers make it (launch.sh)."""
    path = tmp_path / "status"
    path.write_text("-1 none\n")
    monkeypatch.setenv("VIDEOBENCH_STATUS_FILE", str(path))
    return path


def raising(error):
    def main():
        raise error

    return main


def test_what_nobody_foresaw_keeps_its_traceback_and_is_no_status_of_ours(capsys):
    assert run_script(raising(ZeroDivisionError("division by zero"))) == UNFORESEEN == 70
    assert capsys.readouterr().err.splitlines()[0] == "Traceback (most recent call last):"


@pytest.mark.parametrize(("restarts", "status"), [(None, 2), ("0", 1), ("2", 1), ("3", 0)])
def test_a_lost_device_is_tried_again_by_a_new_process_where_torchrun_starts_one(monkeypatch, capsys, restarts, status):
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    # 0, where it has tried often enough: the launchers' file says 2
    assert run_script(raising(DeviceLost("16 questions in a row failed; check the device"))) == status
    assert capsys.readouterr().err.count("error: 16 questions in a row failed") == 1


@pytest.mark.parametrize("status", [0, 1])
def test_a_jobs_status_goes_into_the_launchers_file_alone(status_file, status):
    """torchrun would take another one than 0 for a crash."""
    assert run_script(lambda: status) == 0
    assert status_file.read_text() == f"0 {status}\n"


def test_of_one_start_the_first_status_stands_and_its_error_is_told_alone(status_file, capsys):
    for name in ("first", "second"):
        assert run_script(raising(InputError(f"{name}: wrong; mend it"))) == 0
    assert run_script(lambda: 0) == 0
    assert status_file.read_text() == "0 2\n"
    assert capsys.readouterr().err == "error: first: wrong; mend it\n"


def test_a_later_start_writes_over_the_status_of_an_earlier_one(status_file, monkeypatch, capsys):
    run_script(lambda: 1)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run_script(raising(InputError("the disk: full; free space")))
    assert status_file.read_text() == "1 2\n"
    assert capsys.readouterr().err == "error: the disk: full; free space\n"


def test_a_status_that_cannot_be_written_keeps_no_error_back(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIDEOBENCH_STATUS_FILE", str(tmp_path / "gone/status"))
    run_script(raising(InputError("the disk: full; free space")))
    assert capsys.readouterr().err == "error: the disk: full; free space\n"


def test_a_flag_that_is_cut_short_is_none():
    """The launchers leave --overwrite out of the command that goes on: they must know it by its name."""
    parser = FlagParser(prog="run_gpu.py")
    parser.add_argument("--overwrite", action="store_true")
    with pytest.raises(InputError, match=r"unrecognized arguments: --over; run_gpu\.py --help lists the flags"):
        parser.parse_args(["--over"])


def test_a_place_that_nobody_may_enter_is_named(capsys):
    assert run_script(raising(PermissionError(13, "Permission denied", "data/Eval_video"))) == 2
    assert capsys.readouterr().err == (
        "error: data/Eval_video: cannot be used (Permission denied); check the permissions\n"
    )
