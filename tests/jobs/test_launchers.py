"""The two launchers: their environment, arguments, port and number of processes, their exit status; and a torchrun that
is killed takes its processes with it."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.jobs import state_of
from tests.support.paths import ROOT

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
# In place of torchrun's module: writes down what it was called with, and ends as told.
FAKE_TORCHRUN = """
import json, os, sys
print("torchrun's own words", file=sys.stderr)
json.dump({"argv": sys.argv[1:], "environment": dict(os.environ)}, open(os.environ["RECORD"], "w"))
if "SCRIPT_STATUS" in os.environ:
    open(os.environ["VIDEOBENCH_STATUS_FILE"], "w").write(os.environ["SCRIPT_STATUS"])
if "TO_GO_ON" in os.environ:
    open(os.environ["VIDEOBENCH_STATUS_FILE"] + ".command", "w").write(os.environ["TO_GO_ON"])
if "SIGNAL" in os.environ:  # somebody stops the launcher, which passes it on
    import signal, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.kill(os.getppid(), int(os.environ["SIGNAL"]))
    time.sleep(60)
def main():
    sys.exit(int(os.environ.get("TORCHRUN_STATUS", "0")))
"""


@pytest.fixture
def launch(tmp_path, run_command):
    """(what torchrun was called with, exit status) of a launcher."""
    fake = tmp_path / "fake/torch/distributed/run.py"
    fake.parent.mkdir(parents=True)
    fake.write_text(FAKE_TORCHRUN)
    for folder in (fake.parent, fake.parents[1]):
        (folder / "__init__.py").touch()
    (tmp_path / "bin").mkdir()
    record = tmp_path / "record.json"

    def run(*command, **environment):
        path = f"PATH={tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        fakes = f"PYTHONPATH={tmp_path}/fake"
        done = run_command("env", path, fakes, f"RECORD={record}", "bash", *command, **environment)
        return (json.loads(record.read_text()) if record.exists() else None), done

    return run


def after(argv, flag):
    return argv[argv.index(flag) + 1]


def test_the_npu_launcher_sets_what_the_readme_lists(launch, monkeypatch):
    for name in [*NPU_VARIABLES, "MASTER_PORT"]:
        monkeypatch.delenv(name, raising=False)
    called, done = launch(NPU, "/w 7B", "videos/采样 data", "qa+root", "out put")
    assert done.returncode == 0
    if not any(Path("/dev").glob("davinci[0-9]*")):
        assert done.stderr.startswith("warning: no /dev/davinci* is there: 8 cards are assumed")
    assert {name: called["environment"].get(name) for name in NPU_VARIABLES} == NPU_VARIABLES
    # The processes meet on a port that is free.
    assert called["argv"] == [
        *("--nproc_per_node", "8", "--standalone", "--max_restarts", "3", str(ROOT / "run_npu.py")),
        *("--model_path", "/w 7B", "--image_or_video_path", "videos/采样 data"),
        *("--Eval_QA_root", "qa+root", "--chat_conversation_output_folder", "out put"),
    ]


def test_the_gpu_launcher_takes_its_arguments_in_its_own_order(launch):
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


def test_the_callers_environment_stays(launch):
    values = dict.fromkeys(NPU_VARIABLES, "7") | {"ASCEND_RT_VISIBLE_DEVICES": "2,5", "MASTER_PORT": "20041"}
    called, _ = launch(NPU, "w", "v", "q", "o", **values)
    assert {name: called["environment"][name] for name in values} == values
    assert (after(called["argv"], "--nproc_per_node"), after(called["argv"], "--master_port")) == ("2", "20041")


LENGTHS = ["--batch_size", "4", "--max_input_length", "2048", "--max_new_tokens", "32"]


@pytest.mark.parametrize(
    ("typed", "cards", "processes", "restarts", "script_flags"),
    [
        pytest.param("4 2048 32 --dtype bfloat16", "0", "1", "3", [*LENGTHS, "--dtype", "bfloat16"], id="lengths"),
        pytest.param("--max_restarts 7 --limit 3", "0", "1", "7", ["--limit", "3"], id="restarts-are-for-torchrun"),
        pytest.param("--max_restarts=7", "0", "1", "7", [], id="restarts-with-equals-sign"),
        pytest.param("--device cpu", None, "1", "3", ["--device", "cpu"], id="one-process-on-the-cpu"),
        pytest.param("--limit 1 --device=cpu", None, "1", "3", ["--limit", "1", "--device=cpu"], id="cpu-equals-sign"),
        pytest.param("--device=cpu", "0,1,2", "3", "3", ["--device=cpu"], id="cpu-with-cards-listed"),
    ],
)
def test_lengths_flags_and_the_number_of_processes(launch, typed, cards, processes, restarts, script_flags):
    set_cards = "unset ASCEND_RT_VISIBLE_DEVICES" if cards is None else f"export ASCEND_RT_VISIBLE_DEVICES={cards}"
    called, done = launch("-c", f'{set_cards}; bash "$@"', "-", NPU, "w", "v", "q", "o", *typed.split())
    assert done.stderr == ""
    argv = called["argv"]
    assert (after(argv, "--nproc_per_node"), after(argv, "--max_restarts")) == (processes, restarts)
    assert argv[argv.index("--chat_conversation_output_folder") + 2 :] == script_flags


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


def test_an_environment_without_torch_is_named(run_command):
    done = run_command("bash", NPU, "w", "v", "q", "o", PATH="/usr/bin:/bin", ASCEND_RT_VISIBLE_DEVICES="0")
    assert done.returncode == 2
    assert done.stderr == "error: torch is not found; activate the environment that holds it\n"


def test_a_launcher_works_through_a_link_and_under_sh(launch, tmp_path):
    link = tmp_path / "link to launcher.sh"
    link.symlink_to(ROOT / NPU)
    called, done = launch("-c", f"sh '{link}' w v q o")
    assert done.returncode == 0, done.stderr
    assert called["argv"][5:7] == [str(ROOT / "run_npu.py"), "--model_path"]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        pytest.param((NPU,), "0 arguments were given before the flags, 4 to 7", id="npu-nothing"),
        pytest.param((NPU, "w", "v", "q", ""), "an argument is empty", id="npu-empty"),
        pytest.param((NPU, "w", "v", "q", "--limit", "1"), "3 arguments", id="npu-flag-instead-of-folder"),
        pytest.param((NPU, "w", "v", "q", "o", "1", "2", "3", "4"), "8 arguments", id="npu-one-too-many"),
        pytest.param((NPU, "w", "my", "v", "q", "o"), "come numbers, not 'o'; quote a path", id="npu-path-not-quoted"),
        pytest.param((NPU, "w", "v", "q", "o", "--max_restarts", "x"), "--max_restarts wants", id="restarts-no-number"),
        pytest.param((GPU, "d", "q", "v", "w"), "4 arguments were given before the flags, 5", id="gpu-as-the-npus"),
    ],
)
def test_wrong_arguments_are_answered_with_the_reason_and_the_usage(launch, command, why):
    called, done = launch(*command)
    assert called is None
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: bash {command[0]} ")
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert why in done.stderr.splitlines()[-1]


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
    tells = "processes died and were not started again (--max_restarts 3), or torchrun could not begin: see above"
    assert (tells in done.stderr) == (expected == 70)
    assert ("torchrun's own words" in done.stderr) == (expected == 70)


@pytest.mark.parametrize(
    ("number", "expected", "stored", "said"),
    [
        pytest.param(
            15, 143, {}, "to start again: cd {here} && ASCEND_RT_VISIBLE_DEVICES=0,3 MASTER_PORT= bash {npu} w\\ 7B v "
            "q o --overwrite", id="before-anything-is-stored",
        ),
        pytest.param(
            2, 130, {"TO_GO_ON": "bash /run.sh 'w 7B'\n"}, "what was answered is kept; to go on: bash /run.sh 'w 7B'",
            id="with-answers",
        ),
        pytest.param(1, 129, {"TO_GO_ON": ""}, "to start again: cd ", id="a-full-disk-took-no-command"),
    ],
)  # fmt: skip
def test_a_stopped_launcher_ends_torchrun_and_says_how_to_go_on(launch, number, expected, stored, said):
    """Its script tells the command as soon as it has set the old replies aside; until then --overwrite is still due."""
    default = "import os, signal, sys; [signal.signal(each, 0) for each in (1, 2, 15)]; os.execvp('bash', sys.argv[1:])"
    called = (NPU, "w 7B", "v", "q", "o", "--overwrite")
    chosen = {"ASCEND_RT_VISIBLE_DEVICES": "0,3", "MASTER_PORT": ""}
    start = f'unset CUDA_VISIBLE_DEVICES NNODES; exec python -c "{default}" bash "$@"'
    _, done = launch("-c", start, "-", *called, SIGNAL=str(number), **chosen, **stored)
    assert done.returncode == expected
    words = shlex.split(f"stopped; {said.format(here=shlex.quote(str(ROOT)), npu=NPU)}")
    assert shlex.split(done.stderr)[: len(words)] == words
    assert done.stderr.count("\n") == 1


@pytest.fixture
def ask_launcher(run_command):
    """What a function of launch.sh says of the device files in a folder, on stdout and on stderr."""

    def ask(command, folder, **environment):
        call = f'flags=(); source ./launch.sh; {command} "$1/davinci"'
        done = run_command("bash", "-euc", call, "-", folder, **environment)
        assert done.returncode == 0
        return done.stdout.strip(), done.stderr

    return ask


@pytest.mark.parametrize(
    ("there", "cards"),
    [
        pytest.param([], "", id="no-driver"),
        pytest.param([0], "0", id="one"),
        pytest.param([3], "0", id="a-container-that-has-one-of-many"),
        pytest.param([0, 1, 2, 3], "0,1,2,3", id="four"),
        pytest.param(range(16), ",".join(map(str, range(16))), id="sixteen"),
    ],
)
def test_the_cards_are_those_that_the_driver_shows(ask_launcher, tmp_path, there, cards):
    folder = tmp_path / "设备 dev"
    folder.mkdir()
    for name in ["davinci_manager", *(f"davinci{number}" for number in there)]:
        (folder / name).touch()
    npus, warning = ask_launcher("visible_npus", folder)
    assert npus == cards or (npus, cards) == ("0,1,2,3,4,5,6,7", "")
    assert ("8 cards are assumed; if there are others, set ASCEND_RT_VISIBLE_DEVICES" in warning) == (cards == "")


@pytest.mark.parametrize(
    ("script", "cards"),
    [
        pytest.param("echo 0; echo 1", "0,1", id="listed"),
        pytest.param("echo NVIDIA-SMI has failed; exit 9", "0,1,2", id="fails"),
        pytest.param("exit 0", "", id="lists-none"),
    ],
)
def test_gpus_are_those_of_nvidia_smi_or_else_of_the_driver(ask_launcher, tmp_path, script, cards):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    for number in range(3):
        (tmp_path / f"davinci{number}").touch()
    assert ask_launcher("visible_gpus", tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}") == (cards, "")


@pytest.mark.parametrize("script", [NPU, GPU, "demo.sh", "test.sh", "setup.sh"])
def test_asked_for_help_they_give_it_and_do_nothing(run_command, tmp_path, script):
    link = tmp_path / "链接 link"
    link.symlink_to(ROOT)
    done = run_command("bash", link / script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: bash {script if script != 'setup.sh' else 'demo.sh'}")


@pytest.mark.parametrize("script", ["setup.sh", "launch.sh"])
def test_what_is_sourced_says_what_to_start(run_command, script):
    done = run_command("bash", script)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: start ")


@pytest.mark.parametrize(
    ("port", "found"),
    [
        ("abc", "is 'abc', not a port's number; unset it, or choose one"),
        ("999999", "is '999999', not a port's number; unset it, or choose one"),
        ("", "{} is in use by another process; unset it, or choose another"),
    ],
)
def test_a_port_that_cannot_be_used_is_refused(run_command, port, found):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = port or str(server.getsockname()[1])
        done = run_command("bash", GPU, "MSVD", "qa", "videos", "model", "out", MASTER_PORT=port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: MASTER_PORT {found.format(port)}\n"


# --- Through the real torchrun ---

# Python imports this module at its start. A process that takes videos in hand says so in the file TAKEN, and waits as
# long as there is a file HOLD.
SITE = """
import os, time
if "TORCHELASTIC_RUN_ID" in os.environ:
    from videobench.run.journals import InFlight
    take = InFlight.take
    def held(self, videos):
        take(self, videos)
        open(os.environ["TAKEN"], "a").write(f"{os.getpid()}\\n")
        while os.path.exists(os.environ["HOLD"]):
            time.sleep(0.05)
    InFlight.take = held
"""


@pytest.mark.slow
def test_dead_processes_are_started_again_and_end_with_their_torchrun(tmp_path, tiny_model_path, qa_root, video_root):
    """On `Driving_exam`, which is the README's own example for the set Driving-exam."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "hold").touch()
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{SITE}")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(tmp_path), "HOLD": f"{tmp_path}/hold", "TAKEN": f"{tmp_path}/taken"}
    environment |= {"TMPDIR": f"{tmp_path}/temporary", "ASCEND_RT_VISIBLE_DEVICES": "0,1"}
    environment.pop("MASTER_PORT", None)
    command = ["bash", ROOT / NPU, tiny_model_path, video_root / "Eval_video/Driving_exam", qa_root, tmp_path / "out"]
    command += ["--device", "cpu", "--num_workers", "0"]

    def said():
        return (tmp_path / "err").read_text()

    def wait_for_processes(number):
        """Their ids, when so many have taken videos in hand."""
        until = time.monotonic() + 300
        while len(taken := (tmp_path / "taken").read_text().split() if (tmp_path / "taken").exists() else []) < number:
            assert time.monotonic() < until, said()
            assert launched.poll() is None, said()
            time.sleep(0.05)
        return list(map(int, taken))

    with (tmp_path / "err").open("w") as err, subprocess.Popen(command, env=environment, stderr=err) as launched:
        try:
            os.kill(wait_for_processes(2)[1], signal.SIGKILL)
            ranks = wait_for_processes(4)[2:]
            assert "a process of this job died; all of them were started again (restart 1 of 3)\n" in said()
            assert "torch/distributed" not in said()  # what torchrun says of it
            os.kill(int(Path(f"/proc/{ranks[0]}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
            until = time.monotonic() + 30
            while any(state_of(rank) != "Z" for rank in ranks):
                assert time.monotonic() < until, said()
                time.sleep(0.05)
            assert launched.wait(60) == 70
        finally:
            (tmp_path / "hold").unlink()
    assert "launch.sh: line" not in said()  # bash's own words
    killed = "error: torchrun was killed (status 137), as the system does if memory runs out; what was answered is kept"
    again = shlex.split(said().partition(f"{killed}; to go on: ")[2])
    assert again[:3] == ["ASCEND_RT_VISIBLE_DEVICES=0,1", "bash", str(ROOT / NPU)]
    assert not list((tmp_path / "temporary").iterdir())
