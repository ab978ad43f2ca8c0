"""precision_test.py called wrongly, and what it imports."""

import shutil
import subprocess
import sys

import pytest

import precision_test
from tests.support.paths import ROOT
from videobench.cli import run_script
from videobench.errors import InputError

RUNS = ["--eval_npu_path", "n.json", "--sampling_answer_path", "a.json", "--eval_gpu_path", "g.json"]
EXPORT = ["--eval_npu_path", "x.json", "--sampling_answer_path", "a.json", "--export_leaderboard", "form.json"]

OVERWRITING = (
    "--output_json n.json", "--report_html a.json", "--export_leaderboard ./g.json", "--output_json x --report_html x",
    "--output_markdown n.json", "--eval_npu_path folder --output_json folder/MSVD_eval.json",
)  # fmt: skip
OF_A_COMPARISON = ("--gate", "--output_json r", "--output_markdown r", "--report_html r", "--repeat_path r")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param([], "missing: --eval_npu_path .or --eval_path. and --eval_gpu_path", id="nothing-given"),
        pytest.param(RUNS[:4], "missing: --eval_gpu_path .or --reference_path.; --export", id="one-run"),
        pytest.param([*RUNS, "--report_htm", "x"], "; did you mean --report_html.; ", id="misspelt"),
        pytest.param(["--export_leaderboard", "form.json"], "needs one run", id="nothing-to-export"),
        pytest.param(["--margin", "0"], "--margin must be from 0.01", id="no-margin"),
        pytest.param(["--margin", "1e-160"], "--margin must be from 0.01", id="margin-far-too-small"),
        pytest.param(["--margin", "nan"], "--margin must be from 0.01", id="margin-no-number"),
        pytest.param(["--margin", "x"], "--margin must be from 0.01.*; it is 'x'", id="margin-a-word"),
        pytest.param(["--margin", "1%"], "from 50% to below 100%", id="margin-that-keeps-nothing"),
        pytest.param(["--margin", "100%"], "from 50% to below 100%", id="margin-that-keeps-all"),
        pytest.param([*RUNS, "--report_html", ""], "report_html.*: the path is empty", id="empty-path"),
        pytest.param([*RUNS, "--Eval_Video_root", "v"], "it needs --report_html", id="frames-for-no-report"),
        pytest.param([*RUNS, "--Eval_Video_root", "v", "--report_html", "r"], "v: no such folder of", id="no-videos"),
        pytest.param(
            [*RUNS, "--tolerance", "0"], "--tolerance must be above 0 and at most 20 nats, or none", id="no-tolerance"
        ),
        pytest.param([*RUNS, "--tolerance", "some"], "--tolerance must be above 0", id="tolerance-in-words"),
        pytest.param(["--eval_gpu_path", "n/../n.json", *RUNS[:4]], "json: is used twice", id="one-run-twice"),
        pytest.param([*RUNS, "--repeat_path", "g.json"], "g.json: is used twice", id="repeat-of-itself"),
        *([[*RUNS, *each.split()], "is an input, or another output"] for each in OVERWRITING),
        *([[*EXPORT, *each.split()], "belong to a comparison, which needs two runs"] for each in OF_A_COMPARISON),
    ],
)
def test_wrong_flags_are_named_with_the_fix(flags, message):
    with pytest.raises(InputError, match=message):
        precision_test.main(flags)


def test_a_missing_file_is_one_line_and_status_2(tmp_path, capsys):
    paths = [f"--eval_{side}_path={tmp_path / side}.json" for side in ("npu", "gpu")]
    answers = tmp_path / "ANSWER.json"
    answers.write_text('{"MSVD": {"1": "A"}}')
    status = run_script(lambda: precision_test.main([*paths, f"--sampling_answer_path={answers}"]))
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.count("\n") == 1
    assert "npu.json: cannot be read" in captured.err


def test_help_and_wrong_flags_load_nothing_heavy():
    program = "import sys, precision_test; print(sorted({'av', 'numpy', 'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_a_comparison_without_pictures_loads_neither_torch_nor_av(tmp_path):
    for name, content in (("npu", '{"MSVD/1": {"output_sequence": ["A"]}}'), ("answers", '{"MSVD": {"1": "A"}}')):
        (tmp_path / f"{name}.json").write_text(content)
    program = (
        "import sys, precision_test; precision_test.main(sys.argv[1:]); "
        "print(sorted({'av', 'torch', 'transformers'} & set(sys.modules)))"
    )
    npu, answers = tmp_path / "npu.json", tmp_path / "answers.json"
    gpu = shutil.copy(npu, tmp_path / "gpu.json")
    flags = [f"--eval_npu_path={npu}", f"--eval_gpu_path={gpu}", f"--sampling_answer_path={answers}"]
    command = [sys.executable, "-c", program, *flags, f"--report_html={tmp_path / 'report.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
