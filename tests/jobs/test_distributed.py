"""Jobs of several processes under torchrun's own agent: the results depend neither on their number nor on which die."""

import json
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from tests.support.fault_tools import SET, Bench
from tests.support.jobs import Jobs, count_replies, free_port, kill
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    own = Jobs(tmp_path_factory.mktemp("jobs"))
    yield own
    own.close()


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path, capsys).shorten(24)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, jobs):
    """Rows of one process that nothing disturbed."""
    bench = Bench(tmp_path_factory.mktemp("one"), None).shorten(24)
    jobs.finish(bench.run_flags(), 1)
    return json.loads(bench.result.read_text())


def assert_equal(bench, expected):
    rows = json.loads(bench.result.read_text())
    assert list(rows) == list(expected)
    for key, row in rows.items():
        assert row["output_sequence"] == expected[key]["output_sequence"], key
        assert row["letter_logprobs"] == pytest.approx(expected[key]["letter_logprobs"], abs=1e-4), key


def assert_done(bench, jobs, expected, status, *flags, processes=2):
    """After processes of a job have died: what they had in flight has failed, and one more start answers it."""
    assert status in (0, 1)
    failed = failures(bench)
    assert (status == 1) == bool(failed)
    assert all("a process died while it worked on this video" in reason for reason in failed.values())
    if status:
        jobs.finish(bench.run_flags(*flags), processes)
    assert_equal(bench, expected)


def failures(bench):
    """Keys and reasons."""
    return {key: row["error"] for key, row in json.loads(bench.result.read_text()).items() if "error" in row}


def answers(bench):
    """Keys of the journals' answers."""
    rows = [json.loads(line) for path in journals(bench) for line in path.read_bytes().splitlines()[1:]]
    return [each["key"] for each in rows if "error" not in each["row"]]


def journals(bench):
    return sorted((bench.folder / "out/journal").glob(f"{SET}.rank*.jsonl"))


def start_held(bench, jobs, processes, *flags, hold=10, **order):
    """A job that waits, each rank with a batch in hand, when so many replies are stored."""
    job = jobs.start(bench.run_flags(*flags), processes, hold=hold, **order)
    wait_for_replies(bench, hold, job)
    return job


def wait_for_replies(bench, number, job):
    while count_replies(bench.folder / "out") < number and job.is_running():
        time.sleep(0.005)


# --- Any number of ranks ---


def test_data_parallel_answers_as_one_process(bench, jobs, expected):
    jobs.finish(bench.run_flags(), 3)
    assert_equal(bench, expected)
    assert sorted(answers(bench)) == sorted(expected)  # none was answered twice
    assert not list((bench.folder / "out/journal").glob("*attempt-*"))


# --- One copy of the weights on several cards ---


def test_two_replicas_on_two_cards_each_answer_as_one_process(bench, jobs, expected):
    jobs.finish(bench.run_flags("--tensor_parallel", 2), 4)
    assert_equal(bench, expected)
    assert len(journals(bench)) == 2
    rows = json.loads(bench.result.read_text())
    assert {row["run"]["tensor_parallel"] for row in rows.values()} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("member", [0, 1])
def test_if_one_process_of_a_group_dies_the_job_goes_on(bench, jobs, expected, member):
    """The other waits for it in a collective, or is told by torchrun's signal."""
    job = start_held(bench, jobs, 2, "--tensor_parallel", 2)
    job.go()
    kill(job.ranks()[member], signal.SIGKILL)
    assert_done(bench, jobs, expected, job.wait(), "--tensor_parallel", 2)


# --- Processes that die; at random moments: tests/attack.py ---


def test_kill_9_of_one_rank_costs_what_it_had_in_hand(bench, jobs, expected):
    job = start_held(bench, jobs, 2)
    job.go()
    kill(job.ranks()[1], signal.SIGKILL)
    assert_done(bench, jobs, expected, job.wait())


def test_after_kill_9_of_the_whole_job_another_number_of_ranks_goes_on(bench, jobs, expected):
    job = start_held(bench, jobs, 3)
    job.kill()
    job.wait()
    kept = answers(bench)
    assert len(kept) >= 10
    assert_done(bench, jobs, expected, jobs.start(bench.run_flags(), 2).wait())
    assert sorted(answers(bench)) == sorted(expected)
    assert set(kept) <= set(answers(bench))


def test_overwrite_does_not_throw_away_what_its_own_job_has_answered(bench, jobs, expected):
    jobs.finish(bench.run_flags("--limit", 2), 1)
    job = start_held(bench, jobs, 2, "--overwrite")
    before = {path: path.read_bytes().rpartition(b"\n")[0] for path in journals(bench)}
    job.go()
    kill(job.ranks()[1], signal.SIGKILL)
    assert_done(bench, jobs, expected, job.wait())
    assert all(path.read_bytes().startswith(content) for path, content in before.items())
    assert sorted(answers(bench)) == sorted(expected)


def test_overwrite_does_not_throw_away_a_result_whose_process_died_at_the_end(bench, jobs, expected):
    """As in the tear-down of a driver: torchrun starts all of them again, and there is nothing left to do."""
    job = jobs.start(bench.run_flags("--overwrite"), 2, die_at_end=True)
    assert job.wait() == 0, job.err
    assert_equal(bench, expected)
    assert "died at its end" in job.err
    assert sorted(answers(bench)) == sorted(expected)  # none was answered twice
    assert not list((bench.folder / "out").rglob("*.old"))


def test_a_video_that_kills_its_process_fails_and_is_tried_again_by_the_next_start(bench, jobs, expected):
    videos = {key: Path(row["vid_path"]).name for key, row in expected.items()}
    poison = videos[list(videos)[3]]
    job = jobs.start(bench.run_flags(), 2, poison=[poison])
    status = job.wait()
    assert status == 1, job.err
    assert set(failures(bench)) == {key for key, name in videos.items() if name == poison}
    assert_done(bench, jobs, expected, status)


# --- Many machines ---


def start_two_agents(bench, jobs, **order):
    meeting = ["--nnodes", "2", "--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}"]
    meeting += ["--rdzv_id", "test", "--local_addr", "127.0.0.1"]
    first = jobs.start(bench.run_flags(), 1, more=[*meeting, "--rdzv_conf", "is_host=1"], **order)
    more = [*meeting, "--rdzv_conf", "is_host=0"]
    return [first, jobs.start(bench.run_flags(), 1, more=more, beside=first, **order)]


def test_two_agents_share_a_run_and_both_tell_its_status(bench, jobs, expected):
    agents = start_two_agents(bench, jobs)
    assert [job.wait() for job in agents] == [0, 0], agents[0].err + agents[1].err
    assert_equal(bench, expected)
    assert len(journals(bench)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_if_a_rank_dies_under_one_of_two_agents_both_go_on(bench, jobs, expected, dying):
    """Only that agent counts a restart; the other one restarts its ranks because the first has come anew."""
    agents = start_two_agents(bench, jobs, hold=6)
    wait_for_replies(bench, 6, agents[0])
    [rank] = agents[dying].ranks()
    for job in agents:
        job.go()
    kill(rank, signal.SIGKILL)
    [status, other] = [job.wait() for job in agents]
    assert status == other, agents[0].err + agents[1].err
    assert_done(bench, jobs, expected, status)


@pytest.mark.slow
def test_a_machine_that_vanishes_ends_the_job_with_a_line_and_frees_its_folder(bench, jobs, expected):
    """Its torchrun can tell nobody any more. The other one answers what is left, and does not wait for it for ever."""
    first, second = start_two_agents(bench, jobs, hold=6, silence=2.0)
    wait_for_replies(bench, 6, first)
    first.go()
    second.kill()
    assert first.wait() == 2
    told = (
        "error: process [01] of this job has been silent for 2 s: its machine or its torchrun is gone; start the same"
    )
    assert len(re.findall(told, first.err)) == 1, first.err
    assert_done(bench, jobs, expected, jobs.start(bench.run_flags(), 2).wait())


# --- Stopped, refused ---


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_a_job_within_10_seconds(bench, jobs, expected, number):
    job = start_held(bench, jobs, 2, "--overwrite", hold=5)
    ranks = job.ranks()
    to_go_on = shlex.split((job.folder / "status.command").read_text())
    assert {str(ROOT / "run_gpu.py"), "--model_path"} <= set(to_go_on)
    assert "--overwrite" not in to_go_on  # from here on it would set aside what is answered
    kill(job.process.pid, number)
    until = time.monotonic() + 10
    while job.is_running() or any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < until, job.err
        time.sleep(0.05)
    assert job.wait() is None
    assert not bench.result.exists()
    assert all(path.read_bytes().endswith(b"\n") for path in journals(bench))
    assert "Traceback" not in job.err.replace("torchrun: ", "")
    jobs.finish(bench.run_flags(), 1)
    assert_equal(bench, expected)


def test_the_second_of_two_jobs_on_one_folder_names_the_first(bench, jobs, expected):
    first = start_held(bench, jobs, 2, hold=1)  # it holds the folder until the second has ended
    second = jobs.start(bench.run_flags(), 2)
    status = second.wait()
    first.go()
    assert status == 2, second.err
    assert second.err.count("error: ") == 1
    assert "held by another run (process " in second.err
    assert "Traceback" not in second.err
    assert first.wait() == 0
    assert_equal(bench, expected)


def test_an_error_of_all_processes_is_printed_once(bench, jobs):
    job = jobs.start(bench.run_flags("--num_frames", 500), 2)
    assert job.wait() == 2, job.err
    assert job.err.count("error: 500 frames") == 1
    assert "Traceback" not in job.err
