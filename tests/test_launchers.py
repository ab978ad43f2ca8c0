"""The two launchers: their environment, their arguments, their number of processes, their exit status."""

import json
import os
import shutil

import pytest

from tests.conftest import ROOT
from videobench.dataset import qa_file

NPU_VARIABLES = {  # as the README lists them
    "ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    "MASTER_PORT": "20030",
    "ATB_LAYER_INTERNAL_TENSOR_REUSE": "1",
    "INF_NAN_MODE_ENABLE": "0",
    "ATB_OPERATION_EXECUTE_ASYNC": "1",
    "TASK_QUEUE_ENABLE": "1",
    "ATB_CONVERT_NCHW_TO_ND": "1",
    "LCCL_ENABLE_FALLBACK": "1",
    "ATB_WORKSPACE_MEM_ALLOC_GLOBAL": "1",
    "ATB_CONTEXT_WORKSPACE_SIZE": "0",
}
NPU, GPU = "run_pa_videobench.sh", "run_pa_videobench_gpu.sh"
# Stands in for torchrun: writes down what it was called with, and ends as told.
FAKE_TORCHRUN = """#!/usr/bin/env python3
import json, os, sys
json.dump({"argv": sys.argv[1:], "environment": dict(os.environ)}, open(os.environ["RECORD"], "w"))
if "SCRIPT_STATUS" in os.environ:
    open(os.environ["VIDEOBENCH_STATUS_FILE"], "w").write(os.environ["SCRIPT_STATUS"])
if "SIGNAL" in os.environ:  # somebody stops the launcher, which passes it on
    import signal, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.kill(os.getppid(), int(os.environ["SIGNAL"]))
    time.sleep(60)
sys.exit(int(os.environ.get("TORCHRUN_STATUS", "0")))
"""


@pytest.fixture
def launch(tmp_path, run_command):
    """(what torchrun was called with, exit status) of a launcher."""
    fake = tmp_path / "bin/torchrun"
    fake.parent.mkdir()
    fake.write_text(FAKE_TORCHRUN)
    fake.chmod(0o755)
    record = tmp_path / "record.json"

    def run(*command, **environment):
        path = f"{fake.parent}:{os.environ['PATH']}"
        done = run_command("env", f"PATH={path}", f"RECORD={record}", "bash", *command, **environment)
        return (json.loads(record.read_text()) if record.exists() else None), done

    return run


def after(argv, flag):
    return argv[argv.index(flag) + 1]


def test_npu_environment_and_arguments(launch, monkeypatch):
    for name in NPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    called, done = launch(NPU, "/w 7B", "videos/采样 data", "qa+root", "out put")
    assert done.returncode == 0
    assert {name: called["environment"].get(name) for name in NPU_VARIABLES} == NPU_VARIABLES
    argv = called["argv"]
    assert (after(argv, "--nproc_per_node"), after(argv, "--master_port")) == ("8", "20030")
    assert after(argv, "--max_restarts") == "3"
    assert argv[6:] == [
        *(str(ROOT / "run_npu.py"), "--model_path", "/w 7B", "--image_or_video_path", "videos/采样 data"),
        *("--Eval_QA_root", "qa+root", "--chat_conversation_output_folder", "out put"),
    ]


def test_the_callers_environment_stays(launch):
    values = dict.fromkeys(NPU_VARIABLES, "7") | {"ASCEND_RT_VISIBLE_DEVICES": "2,5", "MASTER_PORT": "20041"}
    called, _ = launch(NPU, "w", "v", "q", "o", **values)
    assert {name: called["environment"][name] for name in NPU_VARIABLES} == values
    assert (after(called["argv"], "--nproc_per_node"), after(called["argv"], "--master_port")) == ("2", "20041")


def test_lengths_and_further_flags_are_passed_on(launch):
    called, _ = launch(NPU, "w", "v", "q", "o", "4", "2048", "32", "--dtype", "bfloat16")
    assert called["argv"][-8:] == [
        *("--max_batch_size", "4", "--max_input_length", "2048", "--max_output_length", "32", "--dtype", "bfloat16")
    ]


@pytest.mark.parametrize("flags", [("--max_restarts", "7"), ("--max_restarts=7",)])
def test_max_restarts_is_for_torchrun(launch, flags):
    called, _ = launch(NPU, "w", "v", "q", "o", *flags, "--limit", "3")
    assert after(called["argv"], "--max_restarts") == "7"
    assert called["argv"].count("--max_restarts") == 1
    assert called["argv"][-2:] == ["--limit", "3"]


def test_many_machines_meet_on_the_first_one(launch):
    machines = {"NNODES": "2", "MASTER_ADDR": "node0", "NODE_RANK": "1", "SLURM_JOB_ID": "417"}
    called, _ = launch(NPU, "w", "v", "q", "o", **machines, ASCEND_RT_VISIBLE_DEVICES="0,1", MASTER_PORT="20041")
    assert called["argv"][2:12] == [
        *("--nnodes", "2", "--rdzv_backend", "c10d", "--rdzv_endpoint", "node0:20041", "--rdzv_id", "417"),
        *("--rdzv_conf", "is_host=false"),
    ]
    called, done = launch(NPU, "w", "v", "q", "o", NNODES="2", MASTER_ADDR="")
    assert done.returncode == 1
    assert "set MASTER_ADDR to the name of the first machine" in done.stderr


def test_gpu_arguments(launch):
    called, done = launch(
        GPU, "sampling_data", "qa root", "video root", "w", "o", "--limit", "3", CUDA_VISIBLE_DEVICES="1,2"
    )
    assert done.returncode == 0
    assert called["environment"]["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert called["argv"] == [
        *("--nproc_per_node", "2", "--master_port", "20034", "--max_restarts", "3", str(ROOT / "run_gpu.py")),
        *("--dataset_name", "sampling_data", "--Eval_QA_root", "qa root", "--Eval_Video_root", "video root"),
        *("--model_path", "w", "--chat_conversation_output_folder", "o", "--limit", "3"),
    ]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param((NPU,), id="npu-nothing"),
        pytest.param((NPU, "w", "v", "q"), id="npu-one-too-few"),
        pytest.param((NPU, "w", "v", "q", ""), id="npu-empty"),
        pytest.param((NPU, "w", "v", "q", "--limit", "1"), id="npu-flag-instead-of-folder"),
        pytest.param((NPU, "w", "v", "q", "o", "1", "2", "3", "4"), id="npu-one-too-many"),
        pytest.param((NPU, "w", "v", "q", "o", "--max_restarts", "x"), id="npu-restarts-no-number"),
        pytest.param((GPU, "d", "q", "v", "w"), id="gpu-one-too-few"),
        pytest.param((GPU, "d", "q", "v", "w", "o", "x"), id="gpu-one-too-many"),
    ],
)
def test_called_wrongly_they_say_how_to_call_them(launch, command):
    called, done = launch(*command)
    assert called is None
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: bash {command[0]} ")


@pytest.mark.parametrize(
    ("script_status", "torchrun_status", "expected"),
    [
        pytest.param("0", "0", 0, id="all-answered"),
        pytest.param("1", "0", 1, id="some-failed"),
        pytest.param("2", "0", 2, id="wrong-input"),
        pytest.param("2", "1", 2, id="wrong-input-on-one-rank"),
        pytest.param(None, "1", 1, id="crash"),
    ],
)
def test_the_scripts_exit_status_is_passed_on(launch, script_status, torchrun_status, expected):
    status = {} if script_status is None else {"SCRIPT_STATUS": script_status}
    _, done = launch(NPU, "w", "v", "q", "o", TORCHRUN_STATUS=torchrun_status, **status)
    assert done.returncode == expected


@pytest.mark.parametrize(("number", "expected"), [(15, 143), (2, 130), (1, 129)])
def test_stopped_they_end_torchrun_and_say_how_to_go_on(launch, number, expected):
    default = "import os, signal, sys; [signal.signal(each, 0) for each in (1, 2, 15)]; os.execvp('bash', sys.argv[1:])"
    called = (NPU, "w 7B", "v", "q", "o", "--overwrite")  # which would set aside what was answered
    _, done = launch("-c", f'exec python -c "{default}" bash "$@"', "-", *called, SIGNAL=str(number))
    assert done.returncode == expected
    assert done.stderr.endswith("stopped; what was answered is kept; to go on: " + f"bash {NPU} w\\ 7B v q o\n")


def test_two_processes_share_a_run_on_the_readmes_misspelt_folder(
    tmp_path, run_command, tiny_model_path, qa_root, video_root
):
    """Through the real torchrun: `Driving_exam` is the README's own example for the set Driving-exam."""
    data = shutil.copytree(video_root, tmp_path / "VideoBench")
    done = run_command(
        *("bash", NPU, tiny_model_path, f"{data}/Eval_video/Driving_exam", qa_root, tmp_path / "out"),
        *("--device", "cpu", "--num_workers", "1"),
        ASCEND_RT_VISIBLE_DEVICES="0,1",
        MASTER_PORT="20047",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out/Driving-exam_eval.json").read_text())
    assert set(rows) == set(json.loads(qa_file(qa_root, "Driving-exam").read_text()))
    assert len(list((tmp_path / "out/journal").glob("*.jsonl"))) == 2
    assert f"answered {len(rows)}, failed 0" in done.stdout


def test_an_error_of_all_processes_is_printed_once(tmp_path, run_command, tiny_model_path, qa_root, video_root):
    done = run_command(
        *("bash", NPU, tiny_model_path, video_root / "Eval_video/MSVD", qa_root, tmp_path, "--device", "cpu"),
        *("--num_frames", "500"),
        ASCEND_RT_VISIBLE_DEVICES="0,1",
        MASTER_PORT="20048",
    )
    assert done.returncode == 2
    assert done.stderr.count("error: 500 frames") == 1
    assert "Traceback" not in done.stderr
