"""What is drawn: exactly as many questions as asked for, the same everywhere, each sample a part of the larger one."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.stand_in import extract, make_benchmark, read, sampled
from videobench.data.dataset import Question, load_answers
from videobench.errors import InputError
from videobench.sampling.selection import STRATEGIES, draw_order


def test_every_sampled_question_has_its_own_video_and_answer(benchmark, capsys):
    assert extract(benchmark, "--nums", "20") == 0
    rows = read(benchmark, "sampling_datasets_QA_new.json")
    answers = load_answers(benchmark / "sample" / "json" / "sampling_answer.json")
    assert len(rows) == len(answers) == 20
    for key, row in rows.items():
        dataset, id = key.split("/")
        assert row["dataset"] == dataset
        assert row["vid_path"] == f"Eval_video/sampling_data/{dataset}/{int(id) // 2}.mp4"
        assert (benchmark / "sample" / row["vid_path"]).read_text() == f"{dataset} {int(id) // 2}"
        assert row["choices"] == {"A": "yes", "B": None, "C": 3}
        assert answers[dataset, id] == "AC"[int(id) % 2]
    assert "sampled 20 questions on 10 videos" in capsys.readouterr().out


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_bytes_anywhere_and_another_seed_others(benchmark, tmp_path, strategy):
    elsewhere = make_benchmark(tmp_path / "other machine", {"NBA": (5, 2), "Driving-decision-making": (5, 2)})
    flags = ("--nums", "8", "--strategy", strategy)
    extract(benchmark, *flags)
    extract(benchmark, *flags)  # a second start
    extract(elsewhere, *flags, "--copy_mode", "symlink", "--datasets", "NBA,driving_decision_making")
    extract(benchmark, *flags, "--seed", "1", out="third")
    for name in ("sampling_datasets_QA_new.json", "sampling_answer.json", "sampling_manifest.json"):
        contents = [(folder / "json" / name).read_bytes() for folder in (benchmark / "sample", elsewhere / "sample")]
        assert contents[0] == contents[1] != (benchmark / "third/json" / name).read_bytes()


def questions_of(sizes, per_video=1):
    """Questions without files: a draw needs none."""
    return [
        Question(name, name, str(number), str(number), f"Eval_video/{name}/{number // per_video}.mp4",
                 Path(name, f"{number // per_video}.mp4"), "video", "text", {"A": "yes"})
        for name, size in sizes.items()
        for number in range(size)
    ]  # fmt: skip


def counts(questions):
    return dict(Counter(each.dataset for each in questions))


@pytest.mark.parametrize(
    ("strategy", "num", "expected"),
    [
        # Quotients in sixtieths: 1, 3, 5, 7, ... of MSVD, 2, 6, 10, ... of TGIF, 6, 18, ... of MOT, the smallest first.
        pytest.param("proportional", 10, {"MSVD": 6, "TGIF": 3, "MOT": 1}, id="exact-shares"),
        pytest.param("proportional", 4, {"MSVD": 3, "TGIF": 1}, id="1-2-3-5"),
        pytest.param("proportional", 5, {"MSVD": 3, "TGIF": 2}, id="6-of-both-goes-by-the-order-of-the-benchmark"),
        pytest.param("proportional", 6, {"MSVD": 3, "TGIF": 2, "MOT": 1}, id="then-to-the-other"),
        pytest.param("proportional", 100, {"MSVD": 60, "TGIF": 30, "MOT": 10}, id="everything"),
        pytest.param("stratified", 9, {"MSVD": 3, "TGIF": 3, "MOT": 3}, id="equal"),
        pytest.param("stratified", 11, {"MSVD": 4, "TGIF": 4, "MOT": 3}, id="the-rest-to-the-larger"),
        # Ten rounds, then MOT has run dry. Of its two turns the first goes by 1/60 to MSVD, the second by 1/30 to TGIF.
        pytest.param("stratified", 36, {"MSVD": 13, "TGIF": 13, "MOT": 10}, id="dry-set-gives-its-turns-by-size"),
        pytest.param("stratified", 100, {"MSVD": 60, "TGIF": 30, "MOT": 10}, id="all"),
    ],
)
def test_so_many_questions_come_from_each_set(strategy, num, expected):
    order = draw_order(questions_of({"MOT": 10, "MSVD": 60, "TGIF": 30}), strategy, seed=0)
    assert counts(order[:num]) == expected
    assert len({(each.dataset, each.id) for each in order}) == 100


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("one_per_video", [False, True])
def test_a_sample_is_the_beginning_of_every_larger_one(tmp_path, strategy, one_per_video):
    make_benchmark(tmp_path, {"MSVD": (12, 2), "TGIF": (5, 1), "MOT": (2, 1)})
    flags = ("--strategy", strategy, "--copy_mode", "symlink", *(["--one_per_video"] if one_per_video else []))
    samples = []
    for num in (1, 3, 8, 13, 19, *([] if one_per_video else [31])):
        extract(tmp_path, "--nums", num, *flags)
        samples.append(sampled(tmp_path))
        assert len(samples[-1]) == num
    for smaller, larger in pairwise(samples):
        assert larger[: len(smaller)] == smaller


# 6 of 10 of NBA and 20 of TGIF: uniform and proportional 0.2 of both; stratified 3 and 3.
@pytest.mark.parametrize(
    ("strategy", "nba", "tgif"), [("uniform", 0.2, 0.2), ("proportional", 0.2, 0.2), ("stratified", 0.3, 0.15)]
)
def test_within_a_set_every_question_is_equally_likely(strategy, nba, tgif):
    questions = questions_of({"NBA": 10, "TGIF": 20}, per_video=3)
    drawn = Counter(each for seed in range(400) for each in draw_order(questions, strategy, seed)[:6])
    for each in questions:
        share = nba if each.dataset == "NBA" else tgif
        assert abs(drawn[each] - 400 * share) < 4 * (400 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_per_video(benchmark, strategy):
    extract(benchmark, "--nums", "10", "--one_per_video", "--strategy", strategy)
    rows = read(benchmark, "sampling_datasets_QA_new.json")
    assert len({row["vid_path"] for row in rows.values()}) == len(rows) == 10
    with pytest.raises(InputError, match=r"11 questions asked for, but only 10 .* only one is drawn on each video"):
        extract(benchmark, "--nums", "11", "--one_per_video", "--strategy", strategy)


def test_a_missing_video_or_answer_costs_its_questions_only(benchmark, capsys):
    extract(benchmark, "--nums", "10", out="before")
    assert "lack their video" not in capsys.readouterr().err
    (benchmark / "VideoBench/Eval_video/NBA/0.mp4").unlink()  # questions 0 and 1
    (benchmark / "VideoBench/Eval_video/NBA/1.mp4").write_bytes(b"")  # 2 and 3: a download that never began
    answers = json.loads((benchmark / "Video-Bench/ANSWER.json").read_text())
    del answers["NBA"]["9"]
    (benchmark / "Video-Bench/ANSWER.json").write_text(json.dumps(answers))
    extract(benchmark, "--nums", "15", out="after")
    warning = "warning: 4 questions lack their video, 1 their answer; the sample is drawn from the others\n"
    assert warning in capsys.readouterr().err
    after = sampled(benchmark, "after")
    lost = {f"NBA/{number}" for number in (0, 1, 2, 3, 9)}
    assert len(after) == 15
    assert not lost & set(after)
    kept = [key for key in sampled(benchmark, "before") if key not in lost]
    assert after[: len(kept)] == kept
    with pytest.raises(InputError, match=r"16 questions asked for, but only 15 .*4 lack the video, 1 the answer"):
        extract(benchmark, "--nums", "16")


@pytest.mark.parametrize("linked", ["NBA", "NBA/3.mp4"])
def test_a_link_out_of_the_video_root_is_refused_unless_allowed(benchmark, linked):
    """A stranger's QA file and archive could otherwise put any file of the user's into a sample that is passed on."""
    path = benchmark / "VideoBench/Eval_video" / linked
    path.rename(benchmark / "elsewhere")
    path.symlink_to(benchmark / "elsewhere")
    with pytest.raises(InputError, match=r"NBA_QA_new\.json: .*elsewhere.*--allow_outside_root follows it"):
        extract(benchmark, "--nums", "2")
    assert not (benchmark / "sample").exists()
    extract(benchmark, "--nums", "20", "--allow_outside_root")
    assert (benchmark / "sample/Eval_video/sampling_data/NBA/3.mp4").read_text() == "NBA 3"


@pytest.mark.parametrize("flags", [("--nums", "0"), ("--num_workers", "0"), ("--strategy", "random"), ("--seed", "x")])
def test_a_wrong_flag_is_refused(benchmark, flags):
    with pytest.raises(InputError, match=flags[0]):
        extract(benchmark, *flags)
    assert not (benchmark / "sample").exists()


@pytest.mark.parametrize("datasets", ["sampling_data", "NBA,Sampling-Data"])
def test_a_sample_cannot_be_drawn_from_a_sample(benchmark, datasets):
    with pytest.raises(InputError, match="cannot draw a sample from a sample"):
        extract(benchmark, "--nums", "2", "--datasets", datasets)
