"""The two launchers: their environment, their arguments, their number of processes, their exit status."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from videobench.data.dataset import qa_file

NPU_VARIABLES = {  # as the README lists them
    "ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
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
    open(os.environ["VIDEOBENCH_STATUS_FILE"], "w").write("0 " + os.environ["SCRIPT_STATUS"])
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
    for name in [*NPU_VARIABLES, "MASTER_PORT"]:
        monkeypatch.delenv(name, raising=False)
    called, done = launch(NPU, "/w 7B", "videos/采样 data", "qa+root", "out put")
    assert done.returncode == 0
    assert {name: called["environment"].get(name) for name in NPU_VARIABLES} == NPU_VARIABLES
    argv = called["argv"]
    # The processes meet on a port that is free.
    assert argv[:5] == ["--nproc_per_node", "8", "--standalone", "--max_restarts", "3"]
    assert argv[5:] == [
        *(str(ROOT / "run_npu.py"), "--model_path", "/w 7B", "--image_or_video_path", "videos/采样 data"),
        *("--Eval_QA_root", "qa+root", "--chat_conversation_output_folder", "out put"),
    ]


def test_the_callers_environment_stays(launch):
    values = dict.fromkeys(NPU_VARIABLES, "7") | {"ASCEND_RT_VISIBLE_DEVICES": "2,5", "MASTER_PORT": "20041"}
    called, _ = launch(NPU, "w", "v", "q", "o", **values)
    assert {name: called["environment"][name] for name in values} == values
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
    del machines["SLURM_JOB_ID"]
    called, _ = launch(GPU, "d", "q", "v", "w", "o", **machines, CUDA_VISIBLE_DEVICES="0", MASTER_PORT="")
    assert (after(called["argv"], "--rdzv_endpoint"), after(called["argv"], "--rdzv_id")) == (
        "node0:20034",
        "videobench",
    )
    called, done = launch(NPU, "w", "v", "q", "o", NNODES="2", MASTER_ADDR="")
    assert done.returncode == 2
    assert "set MASTER_ADDR to the name of the first machine" in done.stderr


def test_what_keeps_them_from_starting_is_wrong_input(launch):
    _, done = launch(NPU, "w", "v", "q", "o", TMPDIR="/none")
    assert done.returncode == 2
    assert "error: no folder for temporary files; free space or set TMPDIR" in done.stderr
    without = os.environ | {"PATH": "/usr/bin:/bin"}
    command = ["bash", ROOT / NPU, "w", "v", "q", "o"]
    done = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: torchrun is not found; activate the environment with torch\n"


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_they_may_be_called_by_a_link_and_by_sh(launch, tmp_path, shell):
    link = tmp_path / "link to launcher.sh"
    link.symlink_to(ROOT / NPU)
    called, done = launch("-c", f"{shell} '{link}' w v q o")
    assert done.returncode == 0, done.stderr
    assert called["argv"][5:7] == [str(ROOT / "run_npu.py"), "--model_path"]


def test_gpu_arguments(launch):
    called, done = launch(
        *(GPU, "sampling_data", "qa root", "video root", "w", "o", "--limit", "3"),
        **{"CUDA_VISIBLE_DEVICES": "1,2", "MASTER_PORT": "20034"},
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
        pytest.param(None, "1", 70, id="crash"),
    ],
)
def test_the_scripts_exit_status_is_passed_on(launch, script_status, torchrun_status, expected):
    status = {} if script_status is None else {"SCRIPT_STATUS": script_status}
    _, done = launch(NPU, "w", "v", "q", "o", TORCHRUN_STATUS=torchrun_status, **status)
    assert done.returncode == expected
    tells = "error: processes died and were not started again (--max_restarts 3), or torchrun could not begin: why"
    assert (tells in done.stderr) == (expected == 70)


def test_a_disk_that_is_full_is_told_before_anything_starts(launch, tmp_path):
    full = tmp_path / "mktemp"
    full.write_text(
        "#!/bin/sh\nmkdir -p $1 && ln -sf /dev/full $1/status && echo $1\n".replace("$1", f"{tmp_path}/full")
    )
    full.chmod(0o755)
    full.rename(tmp_path / "bin/mktemp")
    called, done = launch(NPU, "w", "v", "q", "o")
    assert (called, done.returncode) == (None, 2)
    assert done.stderr.endswith("full: cannot be written; free space or set TMPDIR\n")


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
    )
    assert done.returncode == 2
    assert done.stderr.count("error: 500 frames") == 1
    assert "Traceback" not in done.stderr


def start_launcher(flags, tmp_path, name):
    """In the background, on two processes; what it says goes to a file."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": "0,1", "PYTHONPATH": str(tmp_path), "HOLD": f"{tmp_path}/{name}"}
    environment.pop("MASTER_PORT", None)
    environment["TMPDIR"] = f"{tmp_path}/temporary"
    os.makedirs(environment["TMPDIR"], exist_ok=True)
    command = ["bash", str(ROOT / GPU), *map(str, flags), "--device", "cpu", "--num_workers", "0"]
    with (tmp_path / f"{name}.err").open("w") as err:
        return subprocess.Popen(command, env=environment, stdout=err, stderr=err)


# Python imports this module at its start. A process that takes videos in hand waits there as long as HOLD exists.
SITE = """
import os, time
if "TORCHELASTIC_RUN_ID" in os.environ:
    from videobench.jobs.crashes import Attempts
    take = Attempts.take
    def held(self, videos):
        take(self, videos)
        while os.path.exists(os.environ["HOLD"]):
            open(os.environ["HOLD"] + ".there", "a").write(f"{os.getpid()}\\n")
            time.sleep(0.05)
    Attempts.take = held
"""


@pytest.fixture
def held_job(tmp_path, tiny_model_path, qa_root, video_root):
    """A real launcher whose processes wait with their first videos in hand: (flags, launcher, process ids)."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{SITE}")
    hold, there = tmp_path / "first", tmp_path / "first.there"
    hold.touch()
    flags = ["MSVD", qa_root, video_root, tiny_model_path, tmp_path / "out"]
    job = start_launcher(flags, tmp_path, "first")
    until = time.monotonic() + 120
    while len(set(there.read_text().split() if there.exists() else ())) < 2:
        assert time.monotonic() < until, (tmp_path / "first.err").read_text()
        time.sleep(0.05)
    yield flags, job, [int(each) for each in sorted(set(there.read_text().split()))]
    hold.unlink(missing_ok=True)
    job.wait()


def test_a_second_launcher_on_one_folder_names_the_first(held_job, tmp_path):
    flags, job, _ = held_job
    second = start_launcher(flags, tmp_path, "second")
    said = (tmp_path / "second.err").read_text
    assert second.wait(120) == 2, said()
    assert said().count("error: ") == 1
    assert "held by another run (process " in said()
    assert "Traceback" not in said()
    (tmp_path / "first").unlink()
    assert job.wait(120) == 0, (tmp_path / "first.err").read_text()


def test_a_process_that_is_killed_under_a_launcher_is_started_again(held_job, tmp_path):
    flags, job, processes = held_job
    (tmp_path / "first").unlink()
    os.kill(processes[1], signal.SIGKILL)
    assert job.wait(120) == 0, (tmp_path / "first.err").read_text()
    rows = json.loads((tmp_path / "out/MSVD_eval.json").read_text())
    assert set(rows) == set(json.loads(qa_file(flags[1], "MSVD").read_text()))
    assert not any("error" in row for row in rows.values())


def test_a_torchrun_that_is_killed_takes_its_processes_with_it(held_job, tmp_path):
    _, job, processes = held_job
    torchrun = int(Path(f"/proc/{processes[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(torchrun, signal.SIGKILL)
    assert job.wait(10) == 70
    until = time.monotonic() + 10
    while any(is_running(each) for each in processes):
        assert time.monotonic() < until
        time.sleep(0.05)
    said = (tmp_path / "first.err").read_text()
    assert "error: torchrun was killed (status 137): why stands above" in said
    assert f"to go on: bash {ROOT / GPU} MSVD" in said
    assert not list((tmp_path / "temporary").iterdir())


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("port", ["abc", "999999"])
def test_a_port_that_is_none_is_refused(run_command, port):
    done = run_command("bash", GPU, "MSVD", "qa", "videos", "model", "out", MASTER_PORT=port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: MASTER_PORT is '{port}', not a port's number; unset it, or choose one\n"


def test_a_port_in_use_is_refused(run_command):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = run_command("bash", GPU, "MSVD", "qa", "videos", "model", "out", MASTER_PORT=port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: MASTER_PORT {port} is in use by another process; unset it, or choose another\n"
