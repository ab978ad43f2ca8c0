"""Jobs of several processes under torchrun's own agent: equal results whatever their number, whoever dies."""

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.fault_tools import SET, Bench
from tests.support.jobs import Jobs, free_port, kill


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


def answered(bench):
    return sum(path.read_bytes().count(b"\n") - 1 for path in journals(bench))


def journals(bench):
    return sorted((bench.folder / "out/journal").glob(f"{SET}.rank*.jsonl"))


def wait_for_replies(bench, number, job):
    while answered(bench) < number and job.is_running():
        time.sleep(0.005)


# --- Any number of ranks ---


def test_data_parallel_answers_as_one_process(bench, jobs, expected):
    jobs.finish(bench.run_flags(), 3)
    assert_equal(bench, expected)
    assert sorted(answers(bench)) == sorted(expected)  # none was answered twice
    assert not list((bench.folder / "out/journal").glob("*attempt-*"))


# --- One copy of the weights on several cards ---


@pytest.mark.parametrize(("processes", "cards"), [pytest.param(2, 2, marks=pytest.mark.slow), (4, 2)])
def test_tensor_parallel_answers_as_one_process(bench, jobs, expected, processes, cards):
    jobs.finish(bench.run_flags("--tensor_parallel", cards), processes)
    assert_equal(bench, expected)
    assert len(journals(bench)) == processes // cards
    rows = json.loads(bench.result.read_text())
    assert {row["run"]["tensor_parallel"] for row in rows.values()} == {cards}


@pytest.mark.slow
@pytest.mark.parametrize("member", [0, 1])
def test_one_of_a_group_dies(bench, jobs, expected, member):
    """The other waits for it in a collective, or is told by torchrun's signal."""
    job = jobs.start(bench.run_flags("--tensor_parallel", 2), 2, hold=10)
    wait_for_replies(bench, 10, job)
    job.go()
    kill(job.ranks()[member], signal.SIGKILL)
    assert_done(bench, jobs, expected, job.wait(), "--tensor_parallel", 2)


@pytest.mark.slow
def test_a_poisonous_video_that_kills_all_but_the_first_of_a_group(bench, jobs, expected):
    """The first one, which torchrun ends by a signal, blames nothing: the note of the other one counts."""
    videos = {key: Path(row["vid_path"]).name for key, row in expected.items()}
    poison = videos[list(videos)[3]]
    job = jobs.start(bench.run_flags("--tensor_parallel", 2), 2, poison=[poison], immune=0)
    assert job.wait() == 1, job.err
    assert set(failures(bench)) == {key for key, name in videos.items() if name == poison}


@pytest.mark.slow
def test_a_group_whose_other_process_does_not_answer_ends_within_10_seconds(bench, jobs):
    """A signal does not bring the first one out of the collective: it ends all the same."""
    job = jobs.start(bench.run_flags("--tensor_parallel", 2), 2, hold=10)
    wait_for_replies(bench, 10, job)
    first, second = job.ranks()
    kill(second, signal.SIGSTOP)
    job.go()
    time.sleep(0.5)
    kill(job.process.pid, signal.SIGTERM)
    until = time.monotonic() + 10
    while Path(f"/proc/{first}").exists():
        assert time.monotonic() < until, job.err
        time.sleep(0.05)
    kill(second, signal.SIGKILL)
    job.wait()
    assert all(path.read_bytes().endswith(b"\n") for path in journals(bench))


# --- Processes that die ---


def kill_one_rank(bench, jobs, expected, moments):
    held = moments.randint(0, len(expected) - 8)
    job = jobs.start(bench.run_flags(), 2, hold=held)
    wait_for_replies(bench, held, job)
    job.go()
    time.sleep(moments.uniform(0, 0.02))
    ranks = job.ranks()
    was_killed = bool(ranks) and kill(moments.choice(ranks), signal.SIGKILL)
    assert_done(bench, jobs, expected, job.wait())
    shutil.rmtree(bench.folder / "out")
    return was_killed


def kill_job(bench, jobs, expected, moments):
    before, after = moments.sample([1, 2, 3], 2)
    held = moments.randint(0, len(expected) - 8)
    job = jobs.start(bench.run_flags(), before, hold=held)
    wait_for_replies(bench, held, job)
    job.go()
    time.sleep(moments.uniform(0, 0.02))
    job.kill()
    job.wait()
    was_killed = not bench.result.exists()
    kept = answered(bench)
    assert_done(bench, jobs, expected, jobs.start(bench.run_flags(), after).wait(), processes=after)
    assert answered(bench) >= kept
    shutil.rmtree(bench.folder / "out")
    return was_killed


def kill_times(number, seed, kill_once, *arguments):
    """Until so many have been killed: on a fast machine some have ended before."""
    moments = random.Random(seed)
    tries = 0
    while number:
        number -= kill_once(*arguments, moments)
        tries += 1
        assert tries < 50


def test_kill_9_of_one_rank_at_a_random_moment(bench, jobs, expected):
    kill_times(1, 0, kill_one_rank, bench, jobs, expected)


def test_overwrite_does_not_throw_away_what_its_own_job_has_answered(bench, jobs, expected):
    jobs.finish(bench.run_flags("--limit", 2), 1)
    job = jobs.start(bench.run_flags("--overwrite"), 2, hold=10)
    wait_for_replies(bench, 10, job)
    before = {path: path.read_bytes().rpartition(b"\n")[0] for path in journals(bench)}
    job.go()
    kill(job.ranks()[1], signal.SIGKILL)
    assert_done(bench, jobs, expected, job.wait())
    assert all(path.read_bytes().startswith(content) for path, content in before.items())
    assert sorted(answers(bench)) == sorted(expected)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_overwrite_does_not_throw_away_a_result_whose_process_died_at_the_end(bench, jobs, expected, processes):
    """As in the tear-down of a driver: torchrun starts all of them again, and there is nothing left to do."""
    job = jobs.start(bench.run_flags("--overwrite"), processes, die_at_end=True)
    assert job.wait() == 0, job.err
    assert_equal(bench, expected)
    assert "died at its end" in job.err
    assert sorted(answers(bench)) == sorted(expected)  # none was answered twice
    assert not list((bench.folder / "out").rglob("*.old"))


def test_kill_9_of_the_whole_job_then_another_number_of_ranks(bench, jobs, expected):
    kill_times(1, 0, kill_job, bench, jobs, expected)


@pytest.mark.slow
def test_kill_9_of_one_rank_at_10_random_moments(bench, jobs, expected):
    kill_times(10, 1, kill_one_rank, bench, jobs, expected)


@pytest.mark.slow
def test_kill_9_of_the_whole_job_at_10_random_moments(bench, jobs, expected):
    kill_times(10, 1, kill_job, bench, jobs, expected)


def test_a_video_that_kills_its_process_fails_and_is_tried_again_by_the_next_start(bench, jobs, expected):
    videos = {key: Path(row["vid_path"]).name for key, row in expected.items()}
    poison = videos[list(videos)[3]]
    job = jobs.start(bench.run_flags(), 2, poison=[poison])
    status = job.wait()
    assert status == 1, job.err
    assert set(failures(bench)) == {key for key, name in videos.items() if name == poison}
    assert_done(bench, jobs, expected, status)


@pytest.mark.slow
def test_more_such_videos_than_restarts_end_with_the_second_start(bench, jobs, expected):
    """Deaths count until a job has come to its end: the next start does not begin with them again."""
    videos = {key: Path(row["vid_path"]).name for key, row in expected.items()}
    poison = sorted(set(videos.values()))[:5]
    starts = [jobs.start(bench.run_flags(), 1, poison=poison).wait() for _ in range(2)]
    assert starts == [None, 1]  # three restarts are used up by the first four videos
    assert set(failures(bench)) == {key for key, name in videos.items() if name in poison}


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
def test_a_rank_dies_under_one_of_two_agents(bench, jobs, expected, dying):
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
def test_a_machine_that_vanishes_is_missed_and_the_folder_let_go(bench, jobs, expected):
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
    job = jobs.start(bench.run_flags(), 2, hold=5)
    wait_for_replies(bench, 5, job)
    ranks = job.ranks()
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
    first = jobs.start(bench.run_flags(), 2, hold=1)  # it holds the folder until the second has ended
    wait_for_replies(bench, 1, first)
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
