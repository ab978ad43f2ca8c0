"""The original's scoring, kept for old numbers: its reading, and its two figures on any pair of files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import precision_test
from videobench.compare.pairing import pair_runs
from videobench.compare.scoring import read_letter_as_original, score


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        pytest.param(["Cat"], "C", id="a-capital-in-a-short-reply"),
        pytest.param(["DA"], "A", id="order-of-letters-not-of-the-text"),
        pytest.param(["The answer is Black"], "B", id="prefix-of-a-word"),
        pytest.param(["B. Trees"], None, id="no-space-before-the-label"),
        pytest.param(["Look: B. Trees"], "B", id="label-behind-a-space"),
        pytest.param(["F"], None, id="F-is-unknown"),
        pytest.param(["B</s>"], "B", id="end-token"),
        pytest.param("Answer: B", "A", id="bare-text-by-its-first-character"),
        pytest.param("The answer is B", None, id="bare-text-without-a-capital-of-A-to-E"),
        pytest.param([""], None, id="empty"),
        pytest.param("", None, id="empty-bare-text"),
    ],
)
def test_the_original_s_reading(output, letter):
    assert read_letter_as_original(output) == letter


def _original_figures(npu, gpu, answers):
    """The original's two accuracies, written again from its description, one question after the other."""

    def read(text):
        for _ in range(10):
            text = text.replace("  ", " ")
        text = text.replace("</s>", "").replace("<|im_end|>", "")
        if len(text) < 5:
            found = [letter for letter in "ABCDE" if letter in text]
            return found[0] if found else False
        for pattern in (["is A", "is B", "is C", "is D", "is E"], [" A.", " B.", " C.", " D.", " E."]):
            for piece in pattern:
                if piece in text:
                    return piece.strip(" .")[-1]
        return False

    flat = {key: entry for entries in answers.values() for key, entry in entries.items()}
    right, counted = [0, 0], 0
    for key, entry in flat.items():
        if key not in npu or key not in gpu:
            continue
        letters = [read(rows[key]["output_sequence"][0]) for rows in (npu, gpu)]
        if False in letters:
            continue
        counted += 1
        expected = next((letter for letter in "ABCDE" if letter in entry["answer"]), False)
        right = [count + (letter == expected) for count, letter in zip(right, letters, strict=True)]
    return (right[0] / counted, right[1] / counted) if counted else None


_TEXTS = "A;B;F;Cat;The answer is B;The  answer is Black;x B. Trees;E</s>;no;D <|im_end|>;is C."
_REPLIES = st.sampled_from(_TEXTS.split(";"))
_OUTPUTS = st.one_of(_REPLIES, _REPLIES.map(lambda text: [text]))
_KEYS = st.sampled_from(["1", "2", "3", "MSVD/1", "MSVD/2", "MOT/1", "x/9"])
_FILES = st.dictionaries(_KEYS, _OUTPUTS.map(lambda output: {"output_sequence": output}), min_size=1)
_ANSWERS = st.dictionaries(
    st.sampled_from(["MSVD", "MOT", "TGIF"]),
    st.dictionaries(_KEYS, st.sampled_from("ABCDEF").map(lambda letter: {"answer": letter}), min_size=1),
    min_size=1,
)


def write_files(folder, npu, gpu, answers):
    paths = [folder / name for name in ("npu.json", "gpu.json", "answers.json")]
    for path, content in zip(paths, (npu, gpu, answers), strict=True):
        path.write_text(json.dumps(content))
    return paths


@given(npu=_FILES, gpu=_FILES, answers=_ANSWERS)
def test_mindie_scoring_gives_the_original_s_two_figures(tmp_path_factory, npu, gpu, answers):
    expected = _original_figures(npu, gpu, answers)
    if expected is None:
        return
    paths = write_files(tmp_path_factory.mktemp("mindie"), npu, gpu, answers)
    pairs = pair_runs(*paths, "mindie").pairs
    figures = [score(getattr(pair, side).outcome for pair in pairs).accuracy for side in ("candidate", "reference")]
    assert figures == list(expected)


def test_mindie_scoring_drops_what_one_side_left_unanswered(tmp_path):
    files = {
        "npu": {"1": {"output_sequence": "A"}, "2": {"output_sequence": "x"}, "3": {"output_sequence": ["B"]}},
        "gpu": {"1": {"output_sequence": ["A"]}, "2": {"output_sequence": ["B"]}, "3": {"output_sequence": ["A"]}},
        "answers": {"MSVD": {"1": {"answer": "A"}, "2": {"answer": "B"}}, "MOT": {"3": {"answer": "F"}}},
    }
    pairing = pair_runs(*write_files(tmp_path, **files), "mindie")
    assert [(pair.key, pair.candidate.outcome, pair.reference.outcome) for pair in pairing.pairs] == [
        ("MSVD/1", "right", "right"),
        ("MOT/3", "wrong", "wrong"),
    ]
    assert pairing.dropped == 1


def judge(folder, capsys, npu, gpu, answers, *more):
    """(exit status, stdout) of the gate."""
    names = ("eval_npu_path", "eval_gpu_path", "sampling_answer_path")
    paths = write_files(folder, npu, gpu, answers)
    flags = [f"--{name}={path}" for name, path in zip(names, paths, strict=True)]
    return precision_test.main([*flags, "--scoring=mindie", "--gate", *more]), capsys.readouterr().out


def test_no_pass_if_one_file_lacks_a_set(tmp_path, capsys):
    rows = {str(number): {"output_sequence": ["A"]} for number in range(1000)}
    npu, answers = rows | {"x": {"output_sequence": ["A"]}}, {"MSVD": dict.fromkeys(rows, "A"), "MOT": {"x": "A"}}
    status, out = judge(tmp_path, capsys, npu, rows, answers)
    assert status == 3
    assert "sets that only one file has are left out (MOT, 1 question)" in out


@pytest.mark.parametrize(("lacking", "status"), [(1, 0), (40, 3)])
def test_no_pass_if_what_the_original_drops_could_undo_it(tmp_path, capsys, lacking, status):
    rows = {str(number): {"output_sequence": ["A"]} for number in range(140)}
    npu, answers = dict(list(rows.items())[lacking:]), {"MSVD": {key: {"answer": "A"} for key in rows}}
    found, out = judge(tmp_path, capsys, npu, rows, answers, "--margin=10")
    assert found == status
    is_named = f"{lacking} questions are left out, a side gave no letter; all of them wrong" in out
    assert is_named == (status == 3)
