"""What the sides are called, in every form of the report."""

import json

import pytest

import precision_test
from videobench.errors import InputError

REPLIES = {f"MSVD/{each}": {"dataset": "MSVD", "output_sequence": ["A"]} for each in range(20)}
FORMS = ("--output_json", "--output_markdown", "--report_html")


@pytest.fixture
def texts_of(tmp_path, capsys):
    def compare(first, second, *more, npu=REPLIES, gpu=REPLIES):
        """Each form of the report, without names of files."""
        paths = [tmp_path / name for name in ("1.json", "2.json", "a.json")]
        answers = {"MSVD": {key.split("/")[1]: "A" for key in REPLIES}}
        for path, content in zip(paths, (npu, gpu, answers), strict=True):
            path.write_text(json.dumps(content))
        outputs = [tmp_path / flag.strip("-") for flag in FORMS]
        flags = [first, paths[0], second, paths[1], "--sampling_answer_path", paths[2], *more]
        flags += [part for pair in zip(FORMS, outputs, strict=True) for part in pair]
        precision_test.main([str(each) for each in flags])
        return [capsys.readouterr().out, *(path.read_text() for path in outputs)]

    return compare


def test_every_form_uses_the_given_names(texts_of):
    ours = {key: row | {"run": {"torch": "2.13.0"}} for key, row in REPLIES.items()}
    texts = texts_of("--eval_path", "--reference_path", "--names", "vllm-ascend,<ours>", "--margin", "50", gpu=ours)
    terminal, as_json, markdown, page = texts
    assert "PASS: vllm-ascend answers like <ours>, within 50 points" in terminal
    assert "20 questions (videos not named: clusters unknown), vllm-ascend minus <ours>" in " ".join(terminal.split())
    assert max(map(len, terminal.splitlines()[:-3])) <= 80
    assert json.loads(as_json)["names"]["npu"] == dict.fromkeys(("label", "title", "phrase"), "vllm-ascend")
    assert {"npu", "gpu"} <= json.loads(as_json).keys()  # what a program reads stays
    assert r"**PASS: vllm-ascend answers like \<ours\>, within 50 points**" in markdown
    assert "does vllm-ascend answer as well as &lt;ours&gt;?" in page
    assert "not stored (vllm-ascend), 2.13.0 (&lt;ours&gt;)" in page
    assert "<ours>" not in page
    for text in texts:
        assert "NPU" not in text.replace("on an NPU", "")
        assert "GPU" not in text.replace("on a GPU", "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--eval_npu_path", "--eval_gpu_path"), "the NPU answers like the GPU"),
        (("--eval_path", "--reference_path"), "the evaluated run answers like the reference run"),
        (("--eval_npu_path", "--reference_path"), "the NPU answers like the reference run"),
    ],
)
def test_the_names_follow_the_flags(texts_of, flags, said):
    for text in texts_of(*flags, "--margin", "50"):
        assert said in f"{text[:1].lower()}{text[1:]}".replace("<b>The", "<b>the")


@pytest.mark.parametrize(
    ("flags", "swapped"),
    [(("--eval_npu_path", "--eval_gpu_path"), True), (("--eval_path", "--reference_path"), False)],
)
def test_only_devices_can_be_swapped(texts_of, flags, swapped):
    npu, gpu = ({key: row | {"run": {"device": device}} for key, row in REPLIES.items()} for device in ("cuda", "npu"))
    assert ("look swapped" in texts_of(*flags, npu=npu, gpu=gpu)[0]) == swapped


@pytest.mark.parametrize("names", ["one", "a,b,c", "a,a", "a,", ",b", "a,\x1b[2J", f"a,{'b' * 25}"])
def test_other_names_are_refused(texts_of, names):
    with pytest.raises(InputError, match="--names takes two different names"):
        texts_of("--eval_path", "--reference_path", "--names", names)


def test_one_side_is_given_once():
    with pytest.raises(InputError, match="--eval_path: not allowed with argument --eval_npu_path"):
        precision_test.main(["--eval_npu_path", "x", "--eval_path", "y"])
