"""On a CUDA card: what only a card can show. `bash test.sh --cuda` runs these, and those of tests/model/test_engine.py
and tests/run/test_same_answers.py, which compare the card with plain generation on the CPU."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlavaNextVideoForConditionalGeneration

from tests.support.random_checkpoint import SHAPES, make_model, write_checkpoint
from videobench.data.dataset import build_question_text
from videobench.device.devices import LENGTH_MULTIPLES, open_device
from videobench.model.checkpoint import load_checkpoint
from videobench.model.cost import question_bytes, row_bytes
from videobench.model.engine import Engine, drop_unread_layers, load_engine
from videobench.model.prompts import Answer, VideoQuestions
from videobench.run.loop import RetryingEngine
from videobench.video.pixels import normalise

pytestmark = pytest.mark.cuda

OPTIONS = {"A": "red", "B": "blue", "C": "green"}
# Several roundings of numbers between 2 and 4, in which log-probabilities lie: steps of 2 ** -9 and 2 ** -6.
TOLERANCES = {"float16": 0.02, "bfloat16": 0.15}


@pytest.fixture(scope="module")
def device():
    return open_device("cuda")


@pytest.fixture(scope="module")
def tiny(tiny_model_path):
    return load_checkpoint(tiny_model_path)


@pytest.fixture(scope="module")
def mid(device, tmp_path_factory):
    """A middle-sized checkpoint, and a function that makes its engine in float16."""
    checkpoint = load_checkpoint(write_checkpoint(SHAPES["mid"], tmp_path_factory.mktemp("mid") / "checkpoint"))

    def make(num_tokens):
        model = make_model(checkpoint.path, device.torch_device, torch.float16)
        drop_unread_layers(model)
        return Engine(model, checkpoint, num_tokens, LENGTH_MULTIPLES["cuda"])

    return checkpoint, make


def ask(checkpoint, questions, videos):
    builder, spec = checkpoint.prompt_builder(8), checkpoint.pixel_spec
    size = (8, 3, spec.crop_height, spec.crop_width)
    texts = [build_question_text("Which ball is it" + " now" * number + "?", OPTIONS) for number in range(questions)]
    noise = [
        torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(n)) for n in range(videos)
    ]
    return [VideoQuestions(pixels, builder.build(texts), [tuple(OPTIONS)] * questions) for pixels in noise]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_16_bits_are_as_near_to_plain_generation_as_their_rounding(device, tiny, dtype):
    asked = ask(tiny, 3, 4)
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(tiny.path, dtype=getattr(torch, dtype))
    model.eval().to(device.torch_device)
    engine = load_engine(tiny, device, dtype, 2, LENGTH_MULTIPLES["cuda"])
    for video, answers in zip(asked, engine.answer(asked, 32), strict=True):
        for prompt, answer in zip(video.prompts, answers, strict=True):
            ids = torch.tensor([prompt.prefix_ids + prompt.suffix_ids], device="cuda")
            pixels = normalise(video.pixels[None].cuda(), tiny.pixel_spec, model.dtype)
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=pixels).logits
            expected = logits[0, -1].float().log_softmax(-1)
            for letter, found in answer.letter_logprobs.items():
                plain = float(expected[engine._letter_ids[letter]].logsumexp(-1))
                assert found == pytest.approx(plain, abs=TOLERANCES[dtype])


def test_pixels_are_normalised_as_on_the_cpu(device, tiny):
    pixels = ask(tiny, 1, 1)[0].pixels
    on_card = normalise(pixels.to(device.torch_device), tiny.pixel_spec, torch.float32)
    assert torch.equal(on_card.cpu(), normalise(pixels, tiny.pixel_spec, torch.float32))


@pytest.mark.parametrize("questions", [1, 3, 29])
def test_a_batch_takes_no_more_than_the_memory_rule_allows(mid, questions):
    checkpoint, make = mid
    engine = make(4)
    asked = ask(checkpoint, questions, max(1, 32 // questions))
    longest = max((prompt for video in asked for prompt in video.prompts), key=len)
    allowed = question_bytes(checkpoint, "float16", 8, len(longest.prefix_ids), len(longest) + 4)
    engine.answer(asked, 32)  # libraries take their workspaces
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    engine.answer(asked, 32)
    taken = torch.cuda.max_memory_allocated() - before
    one_more = row_bytes(checkpoint, "float16", len(longest) + 4)
    assert taken <= allowed * sum(len(video.prompts) for video in asked) + one_more


def test_a_card_that_is_nearly_full_answers_in_smaller_batches(device, mid, capsys):
    checkpoint, make = mid
    engine = make(2)
    asked = ask(checkpoint, 1, 32)
    expected = engine.answer(asked, 32)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    engine.answer(asked, 32)
    taken = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    filler = torch.empty(torch.cuda.mem_get_info()[0] - taken // 3, dtype=torch.uint8, device=device.torch_device)
    found = RetryingEngine(engine, device, 32).answer(asked)
    del filler
    torch.cuda.empty_cache()  # the scripts below are other processes
    assert "is out of memory; from here on at most" in capsys.readouterr().err
    for [mine], [whole] in zip(found, expected, strict=True):
        assert isinstance(mine, Answer)
        assert mine.letter_logprobs == pytest.approx(whole.letter_logprobs, abs=TOLERANCES["float16"])


# --- The scripts ---


@pytest.fixture
def on_card(flags):
    """run_gpu.py's flags for the small model and one data set, and where the result lies."""
    kept = [each for each in flags if each not in ("--device", "cpu")]
    folder = kept[kept.index("--chat_conversation_output_folder") + 1]
    return kept, f"{folder}/MSVD_eval.json"


def test_deterministic_runs_are_equal_to_the_byte(run_command, on_card):
    flags, result = on_card
    contents = []
    for _ in range(2):
        done = run_command(sys.executable, "run_gpu.py", *flags, "--deterministic", "--overwrite")
        assert done.returncode == 0, done.stderr
        contents.append(Path(result).read_bytes())
    assert contents[0] == contents[1]


def test_the_launcher_takes_the_cards_there_are(run_command, tiny_model_path, qa_root, video_root, tmp_path):
    done = run_command(
        "env", "-u", "CUDA_VISIBLE_DEVICES", "bash", "run_pa_videobench_gpu.sh",
        "MSVD", qa_root, video_root, tiny_model_path, tmp_path / "结果 out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "结果 out/MSVD_eval.json").read_text())
    assert {row["run"]["device"] for row in rows.values()} == {"cuda"}
    assert {row["run"]["dtype"] for row in rows.values()} == {"float16"}


def test_check_device(run_command):
    done = run_command(sys.executable, "run_gpu.py", "--check_device")
    assert done.returncode == 0, done.stderr
    assert "all checks passed" in done.stdout
    assert "right on each" in done.stdout


@pytest.mark.parametrize("script", ["inference.py", "on_card.py"])
def test_benchmarks_run(run_command, script):
    few = ["--num_questions=6", "--num_workers=1", "--clip_size", "96", "64"]
    few = few if script == "inference.py" else ["--rows", "4"]
    done = run_command(
        sys.executable, f"benchmarks/{script}", "--device=cuda", "--shape=small", "--questions", "1", "3", *few
    )
    assert done.returncode == 0, done.stderr
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) == 3
