"""A command that is kept can be pasted into bash, in any folder, and says what was typed."""

import json
import os
import shlex
import subprocess
from dataclasses import replace

import pytest

from tests.support.fault_tools import Bench
from videobench.commands import ROOT, TYPED, Command, fold, quote, read_command, this_command

WORDS = [
    "plain", "a b", "视频 数据+@", "it's", '"twice"', "back\\slash", "two\nlines", "tab\there",
    "$HOME `id` $(id) ;|&*?~#!", "", os.fsdecode(b"not \xff text"), "-", "a=b c", "“quoted”", "long " * 60, "'",
    "\x1b[2J",
]  # fmt: skip


@pytest.mark.parametrize("width", [20, 80, 120, 10_000])
def test_every_word_reaches_bash_as_it_is(width):
    command = fold(" ".join(["printf", r"'%s\0'", *map(quote, WORDS)]), width, "    ")
    assert all(each.isprintable() for each in command.replace("\n", ""))
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert [os.fsdecode(each) for each in done.stdout.split(b"\0")[:-1]] == WORDS


def test_a_command_is_broken_between_words_to_fit_the_terminal():
    words = [f"--flag{number}" for number in range(30)]
    lines = fold(" ".join(words), 80, "    ").splitlines()
    assert len(lines) > 3
    assert all(line.endswith(" \\") and len(line) <= 80 for line in lines[:-1])
    assert all(line.startswith("    ") for line in lines)


@pytest.fixture
def bench(tmp_path, capsys, monkeypatch):
    bench = Bench(tmp_path / "数据 it's set+@", capsys).shorten(8)
    monkeypatch.chdir(bench.folder)
    for name in ("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return bench


def paste(command, **environment):
    return subprocess.run(
        ["bash", "-c", command], cwd="/", env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_a_sample_keeps_the_command_that_made_it_and_stays_the_same(bench):
    assert bench.start("extract_dataset", "--Eval_QA_root", "qa", "--Eval_Video_root=videos", "--datasets=MSVD",
                       "--nums", 3).status == 0  # fmt: skip
    manifest = bench.folder / "qa/Eval_QA/sampling_manifest.json"
    before = manifest.read_bytes()
    assert str(bench.folder).encode() not in before
    kept = read_command(manifest.with_name("sampling_command.json"))
    assert (kept.available, kept.flag("nums"), kept.flag("Eval_Video_root")) == (8, "3", f"{bench.folder}/videos")
    place = bench.folder / "videos/Eval_video"
    assert bench.start("extract_dataset", "--verify", manifest, "--sampling_output_folder", place).status == 0
    done = paste(kept.text)
    assert done.returncode == 0, done.stderr
    assert manifest.read_bytes() == before
    assert paste(kept.with_flag("nums", 5).text).returncode == 0
    assert len(json.loads((bench.folder / "qa/Eval_QA/sampling_datasets_QA_new.json").read_bytes())) == 5


def test_a_run_keeps_its_command_with_its_defaults_and_without_overwrite(bench):
    flags = ("--model_path", os.path.relpath(bench.model), "--Eval_QA_root", "qa", "--Eval_Video_root", "videos")
    done = bench.start("run_gpu", *flags, "--dataset_name", "MSVD", "--device", "cpu", "--num_workers", 0, "--limit", 2,
                       "--overwrite")  # fmt: skip
    assert done.status == 0, done.err
    kept = read_command(bench.folder / "Chat_results/journal/MSVD.command.json")
    assert kept.flag("chat_conversation_output_folder") == f"{bench.folder}/Chat_results"
    assert "--overwrite" not in kept.text
    assert "Eval_QA_root" in kept.text
    again = paste(kept.without("limit").text)
    assert again.returncode == 0, again.stderr
    assert "2 kept, 6 to answer" in again.stderr
    assert str(bench.folder) not in (bench.folder / "Chat_results/MSVD_eval.json").read_text()


def test_paths_of_the_launchers_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    typed = (
        "CUDA_VISIBLE_DEVICES=1,2|HOME=x|bash|./run_pa_videobench_gpu.sh|sampling_data|a b|c|../m|out|--dtype|float16"
    )
    monkeypatch.setenv(TYPED, typed.replace("|", "\x1f") + "\x1f")
    own = this_command("run_gpu.py", ["--dtype", "float16"], lambda words: [*words])
    launcher = ROOT / "run_pa_videobench_gpu.sh"
    folder, above = str(tmp_path), str(tmp_path.parent)
    paths = [f"{folder}/a b", f"{folder}/c", f"{above}/m", f"{folder}/out"]
    words = ["CUDA_VISIBLE_DEVICES=1,2", "bash", str(launcher), "sampling_data", *paths, "--dtype", "float16"]
    assert shlex.split(own.text) == words
    assert shlex.split(own.with_flag("limit", 3).text) == [*words, "--limit", "3"]
    assert shlex.split(own.alone().text)[-3:] == [str(ROOT / "run_gpu.py"), "--dtype", "float16"]


@pytest.mark.parametrize(
    ("processes", "begin"),
    [(("1", "1"), [None]), (("2", "2"), ["torchrun", "--standalone", "--nproc_per_node", "2"]),
     (("2", "4"), ["torchrun", "TORCHRUN_FLAGS"])],
)  # fmt: skip
def test_processes_of_torchrun_are_started_again_by_torchrun(monkeypatch, processes, begin):
    for name, value in zip(("LOCAL_WORLD_SIZE", "WORLD_SIZE"), processes, strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    own = this_command("run_gpu.py", ["--limit", "1"], lambda words: [*words])
    *words, script, _, _ = shlex.split(own.text)
    assert script == str(ROOT / "run_gpu.py")
    assert words == begin or (begin == [None] and len(words) == 1)


@pytest.mark.parametrize(
    ("words", "names", "switches", "left"),
    [
        ("--nums 3 --x", ["nums"], [], "--x"),
        ("--nums=3 --x", ["nums"], [], "--x"),
        ("a --x --nums 3 --x 4", ["nums"], ["x"], "a 4"),
        ("--path --nums --nums 3", ["path"], [], "--nums 3"),
        ("--nums", ["nums"], [], ""),
    ],
)
def test_flags_are_taken_out(words, names, switches, left):
    assert Command("run_gpu.py", tuple(words.split())).without(*names, switches=switches).arguments == (*left.split(),)


@pytest.mark.parametrize(
    ("words", "value"), [("--nums 3 --nums=4", "4"), ("--nums=4 --nums 3", "3"), ("--x nums", None), ("", None)]
)
def test_the_last_value_of_a_flag_counts(words, value):
    assert Command("run_gpu.py", tuple(words.split())).flag("nums") == value


@pytest.mark.parametrize(
    "change",
    [
        {"script": "/tmp/run_gpu.py"}, {"script": "evil.py"}, {"launcher": "evil.sh"}, {"arguments": "--x"},
        {"arguments": [1]}, {"host": None}, {"environment": {"CUDA_VISIBLE_DEVICES": 1}}, {"launched": None},
        {"processes": "x"}, {"processes": -7}, {"processes": 10**300}, {"arguments": ["\0"]},
    ],
)  # fmt: skip
def test_what_this_suite_has_not_written_is_no_command(tmp_path, change):
    path = tmp_path / "command.json"
    fit = {"script": "run_gpu.py", "arguments": [], "launcher": "", "launched": [], "environment": {}, "processes": 1,
           "host": "", "available": 0}  # fmt: skip
    path.write_text(json.dumps(fit))
    assert read_command(path)
    path.write_text(json.dumps(fit | change))
    assert read_command(path) is None


def test_a_stored_command_names_this_suite_and_cannot_add_to_it(tmp_path):
    stored = {"script": "run_gpu.py", "arguments": ["--limit", "1; touch x", "$(id)"], "launcher": "", "launched": [],
              "environment": {"LD_PRELOAD": "/x.so", "CUDA_VISIBLE_DEVICES": "0; id"}, "processes": 1,
              "host": os.uname().nodename, "available": 0}  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(stored))
    command = read_command(tmp_path / "c.json")
    words = shlex.split(command.text)
    assert words[0] == "CUDA_VISIBLE_DEVICES=0; id"
    assert words[2:] == [str(ROOT / "run_gpu.py"), "--limit", "1; touch x", "$(id)"]
    assert shlex.split(replace(command, host="elsewhere").text)[1:3] == ["python", "run_gpu.py"]
