"""How a script's end becomes an exit status, and the status of a job of several processes."""

import ast
import json
import os
import sys

import pytest

from tests.support.fault_tools import Bench
from tests.support.paths import ROOT
from videobench.cli import FlagParser, run_script
from videobench.errors import DeviceLost, InputError


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")


@pytest.fixture
def status_file(tmp_path, monkeypatch):
    """As the launchers make it (launch.sh)."""
    path = tmp_path / "status"
    path.write_text("none\n")
    monkeypatch.setenv("VIDEOBENCH_STATUS_FILE", str(path))
    return path


def raising(error):
    def main():
        raise error

    return main


class PanicException(BaseException):
    """As the tokenizers' Rust code raises it."""


@pytest.mark.parametrize(
    ("error", "status", "last"),
    [
        pytest.param(ZeroDivisionError("division by zero"), 70, "ZeroDivisionError: division by zero", id="unforeseen"),
        pytest.param(PanicException("out of bounds"), 70, "test_exit_status.PanicException: out of", id="rust-panic"),
        pytest.param(SystemExit(1), 70, "SystemExit: 1", id="library-exits"),
        pytest.param(SystemExit(0), 0, "", id="help"),
        pytest.param(KeyboardInterrupt(), 130, "stopped by SIGINT; to start again: cd ", id="ctrl-c"),
        pytest.param(InputError("x.json: not JSON; get it again"), 2, "error: x.json: not JSON; get it", id="input"),
        pytest.param(
            ModuleNotFoundError("No module named 'av'", name="av"), 2,
            "error: a package is missing or cannot be imported (No module named 'av'); pip install", id="package",
        ),
        pytest.param(ImportError("our own", name="videobench.run"), 70, "ImportError: our own", id="our-own-import"),
        pytest.param(
            PermissionError(13, "Permission denied", "data/Eval_video"), 2,
            "error: data/Eval_video: cannot be used (Permission denied); check the path, its perm", id="permission",
        ),
        pytest.param(OSError(28, "No space left on device"), 2, "error: output: cannot be written (No", id="full-disk"),
        pytest.param(BrokenPipeError(32, "Broken pipe"), 141, "error: output: nobody reads it any more", id="unread"),
    ],
)  # fmt: skip
def test_every_end_has_a_status_and_one_line_or_a_traceback(capsys, error, status, last):
    assert run_script(raising(error)) == status
    said = capsys.readouterr().err
    assert (said.splitlines() or [""])[-1].startswith(last)
    assert said.startswith("Traceback") == (status == 70)


@pytest.mark.parametrize(("restarts", "status"), [(None, 2), ("0", 1), ("2", 1), ("3", 0)])
def test_a_lost_device_is_tried_again_by_a_new_process_if_torchrun_starts_one(monkeypatch, capsys, restarts, status):
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    # 0 if it has tried often enough: the launchers' file says 2
    assert run_script(raising(DeviceLost("16 questions in a row failed; check the device"))) == status
    assert capsys.readouterr().err.count("error: 16 questions in a row failed") == 1


def test_the_first_status_of_a_start_is_the_jobs_and_its_error_alone_is_told(status_file, monkeypatch, capsys):
    """torchrun would take another status than 0 for a crash."""
    for name in ("first", "second"):
        assert run_script(raising(InputError(f"{name}: wrong; mend it"))) == 0
    assert run_script(lambda: 1) == 0
    assert status_file.read_text() == "2\n"
    assert capsys.readouterr().err == "error: first: wrong; mend it\n"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run_script(lambda: 1) == 0
    assert status_file.read_text() == "1\n"


def test_abbreviated_flags_are_refused():
    """The launchers leave --overwrite out of the command that goes on: they must know it by its name."""
    parser = FlagParser(prog="run_gpu.py")
    parser.add_argument("--overwrite", action="store_true")
    with pytest.raises(InputError, match=r"unrecognized arguments: --over; run_gpu\.py --help lists the flags"):
        parser.parse_args(["--over"])


# --- Output that nobody reads, or that a full disk does not take ---


def test_a_run_whose_reader_has_gone_keeps_what_it_answered(tmp_path, capsys, monkeypatch):
    """As of `| head -1`."""
    bench = Bench(tmp_path, capsys).shorten(4)
    read_end, write_end = os.pipe()
    os.close(read_end)
    with monkeypatch.context() as patched, os.fdopen(write_end, "w", buffering=1) as stdout:
        patched.setattr(sys, "stdout", stdout)
        outcome = bench.answer()
    assert (outcome.status, outcome.err) == (
        141,
        "error: output: nobody reads it any more; a run keeps what it answered\n",
    )
    outcome = bench.answer()
    assert outcome.status == 0
    assert "4 kept" in outcome.out
    assert len(json.loads(bench.result.read_bytes())) == 4


LONG = "-c 'import videobench; videobench.start(lambda: print(100_000 * chr(120)) or 0)'"


@pytest.mark.parametrize(
    ("script", "redirection", "status", "said"),
    [
        pytest.param(LONG, "| head -c 1 >/dev/null", 141, "error: output: nobody reads it any more", id="reader-gone"),
        pytest.param(
            LONG, ">/dev/full", 2, "error: output: cannot be written (No space left on device); free", id="full"
        ),
        pytest.param("run_npu.py --help", ">/dev/full", 2, "error: output: cannot be written (No space", id="help"),
    ],
)
def test_output_that_cannot_be_written_ends_in_one_line(script, redirection, status, said, run_command):
    """With what Python would still write at its end."""
    done = run_command("bash", "-c", f"python {script} {redirection}; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == status
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


# --- A Python that is too old ---

SCRIPTS = ["extract_dataset.py", "run_npu.py", "run_gpu.py", "precision_test.py", "videobench/__init__.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_can_read_what_it_is_refused_by(script):
    """Python 2.7 knows no annotations and no f-strings; tried with 2.7, 3.6, 3.8 and 3.9."""
    for node in ast.walk(ast.parse((ROOT / script).read_bytes())):
        assert not isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr | ast.Match)
        assert getattr(node, "annotation", None) is None
        assert getattr(node, "returns", None) is None


@pytest.mark.parametrize("script", SCRIPTS[:-1])
def test_an_old_python_is_refused_in_one_line(script, run_command):
    program = (
        "import runpy, sys; sys.version_info = (3, 9, 18, 'final', 0); sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = run_command(sys.executable, "-c", program, script)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Python 3.10 to 3.13 is needed, ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(f"python3.11 {script}\n")
