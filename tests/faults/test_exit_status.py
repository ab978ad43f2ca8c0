"""How a script's end becomes an exit status, and the status of a job of several processes."""

import ast
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
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


class PanicException(BaseException):
    """As the tokenizers' Rust code raises it."""


@pytest.mark.parametrize(
    ("error", "status", "last"),
    [
        pytest.param(PanicException("index out of bounds"), 70, "PanicException: index out of bounds", id="rust-panic"),
        pytest.param(SystemExit("a library gives up"), 70, "error: a library gives up", id="library-exits"),
        pytest.param(SystemExit(1), 70, "error: 1", id="library-exits-with-1"),
        pytest.param(SystemExit(0), 0, "", id="help"),
        pytest.param(KeyboardInterrupt(), 130, "stopped by SIGINT; what was answered is kept", id="ctrl-c"),
        pytest.param(
            ModuleNotFoundError("No module named 'av'", name="av"), 2,
            "error: the package av is not installed; pip install -r requirements.txt", id="package-missing",
        ),
        pytest.param(
            ImportError("libx.so: failed to map segment", name="numpy"), 2,
            "error: a package cannot be imported (libx.so: failed to map segment); check ulimit -v", id="no-room",
        ),
        pytest.param(ImportError("our own", name="videobench.run"), 70, "ImportError: our own", id="our-own-import"),
        pytest.param(MemoryError(), 2, "error: the host has too little memory for this process", id="memory"),
        pytest.param(
            RuntimeError("can't start new thread"), 2, "error: no thread can be started", id="threads"
        ),
        pytest.param(
            OSError(24, "Too many open files", "x"), 2, "error: no more files can be opened", id="open-files"
        ),
        pytest.param(
            BlockingIOError(11, "Resource temporarily unavailable"), 2,
            "error: no process can be started", id="processes",
        ),
    ],
)  # fmt: skip
def test_no_end_looks_like_a_verdict_or_like_failed_questions(capsys, error, status, last):
    assert run_script(raising(error)) == status
    assert (capsys.readouterr().err.splitlines() or [""])[-1].removeprefix("test_exit_status.").startswith(last)


ENDS = {
    "plain": ("lambda: print('done') or 0", 0, "done\n", ""),
    "verdict": ("lambda: print('FAIL') or 1", 1, "FAIL\n", ""),
    "library-in-c": ("lambda: print('half') or ctypes.CDLL(None).exit(1)", 70, "", ""),
    "registered": ("lambda: atexit.register(print, 'at the end') and 3", 3, "at the end\n", ""),
    "thread": ("lambda: threading.Timer(0.2, print, ['late']).start() or 0", 0, "late\n", ""),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_process_ends_with_the_status_of_the_script_alone(tmp_path, name):
    main, status, out, err = ENDS[name]
    script = tmp_path / "script.py"
    script.write_text(f"import atexit, ctypes, threading, videobench\nvideobench.start({main})\n")
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


EARLY = """
import sys
class Failing:
    def find_spec(self, name, path, target=None):
        if name == "videobench.cli":
            raise {}
sys.meta_path.insert(0, Failing())
import videobench
videobench.start(lambda: 0)
"""


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        pytest.param("KeyboardInterrupt", 130, "stopped by SIGINT before anything had begun", id="ctrl-c"),
        pytest.param("OSError(24, 'Too many')", 2, "error: the suite cannot be loaded ([Errno 24] Too", id="files"),
        pytest.param("ImportError('half')", 70, "Traceback", id="unforeseen"),
    ],
)
def test_what_ends_the_very_first_imports(error, status, said):
    done = subprocess.run([sys.executable, "-c", EARLY.format(error)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.startswith(said)


SCRIPTS = ["extract_dataset.py", "run_npu.py", "run_gpu.py", "precision_test.py", "videobench/__init__.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_can_read_what_it_is_refused_by(script):
    """Python 2.7 knows no annotations and no f-strings; tried with 2.7, 3.6, 3.8 and 3.9."""
    for node in ast.walk(ast.parse((ROOT / script).read_bytes())):
        assert not isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr | ast.Match)
        assert getattr(node, "annotation", None) is None
        assert getattr(node, "returns", None) is None


@pytest.mark.parametrize("script", SCRIPTS[:-1])
def test_an_old_python_is_refused_in_one_line(script):
    program = (
        "import runpy, sys; sys.version_info = (3, 9, 18, 'final', 0); sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Python 3.10 to 3.13 is needed, ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(f"python3.11 {script}\n")
