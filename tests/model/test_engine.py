"""Shared prefixes and batches give the ids and log-probabilities of one plain `generate` per question."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import LlavaNextVideoForConditionalGeneration

from videobench.data.dataset import build_question_text, load_questions, qa_file
from videobench.device.devices import open_device
from videobench.model.checkpoint import load_checkpoint
from videobench.model.engine import Engine, load_engine
from videobench.model.prompts import VideoQuestions
from videobench.video.pixels import normalise
from videobench.video.pool import prepare_video

COLOURS = ["red", "blue", "green", "white", "black", "yellow"]


@pytest.fixture(scope="module")
def checkpoint(tiny_model_path):
    return load_checkpoint(tiny_model_path)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """What is compared with plain generation on the CPU, whose sums add up in another order."""
    return open_device(request.param)


@pytest.fixture(scope="module")
def engine(checkpoint, device):
    return load_engine(checkpoint, device, "float32", max_new_tokens=8)


@pytest.fixture(scope="module")
def videos(checkpoint):
    """Three videos of noise with 1, 4 and 2 questions of different lengths."""
    generator = torch.Generator().manual_seed(0)
    builder = checkpoint.prompt_builder(8)
    made = []
    for num_questions in (1, 4, 2):
        options = [dict(zip("ABCDEF", COLOURS[: 2 + number], strict=False)) for number in range(num_questions)]
        texts = [build_question_text("Which color" + " is it" * len(each), each) for each in options]
        size = (8, 3, checkpoint.pixel_spec.crop_height, checkpoint.pixel_spec.crop_width)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        made.append(VideoQuestions(pixels, builder.build(texts), [tuple(each) for each in options]))
    return made


@pytest.fixture(scope="module")
def whole_model(tiny_model_path):
    """As transformers loads it, with the layers that nothing reads."""
    return LlavaNextVideoForConditionalGeneration.from_pretrained(tiny_model_path).eval()


@pytest.fixture(scope="module")
def plain(whole_model, checkpoint, videos):
    """(ids, log-probabilities of every token at the first position) of each question, by one plain generate each."""
    return [[answer_plainly(whole_model, checkpoint, video, prompt) for prompt in video.prompts] for video in videos]


def answer_plainly(model, checkpoint, video, prompt, **options):
    ids = torch.tensor([prompt.prefix_ids + prompt.suffix_ids])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=normalise(video.pixels[None], checkpoint.pixel_spec, torch.float32),
        return_dict_in_generate=True,
        output_logits=True,
        **{"max_new_tokens": 8} | options,
    )
    return tuple(output.sequences[0, ids.shape[1] :].tolist()), output.logits[0][0].log_softmax(-1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("length_multiple", [1, 32])
def test_ids_and_logprobs_equal_plain_generation(engine, videos, plain, batch_size, together, length_multiple):
    engine._length_multiple = length_multiple
    answers = []
    for start in range(0, len(videos), together):
        answers += engine.answer(videos[start : start + together], batch_size)
    letters = engine._letter_ids
    for video, mine, theirs in zip(videos, answers, plain, strict=True):
        for answer, (ids, logprobs), options in zip(mine, theirs, video.letters, strict=True):
            assert answer.token_ids == ids
            assert answer.is_finite
            assert list(answer.letter_logprobs) == list(options)
            for letter in options:
                assert answer.letter_logprobs[letter] == pytest.approx(
                    float(logprobs[letters[letter]].logsumexp(-1)), abs=1e-4
                )


def test_each_video_is_encoded_once(engine, videos):
    encoded = []
    # Its place in the model differs between versions of transformers, its class does not.
    tower = next(module for module in engine.model.modules() if type(module).__name__ == "CLIPVisionModel")
    handle = tower.register_forward_pre_hook(
        lambda module, args, kwargs: encoded.append(args or kwargs), with_kwargs=True
    )
    engine.answer(videos, batch_size=2)
    handle.remove()
    assert len(encoded) == 1  # one call, with all three videos; seven questions in four batches


def test_layers_that_nothing_reads_are_dropped(engine, whole_model):
    """The features come from layer -2 of 3. That the answers stay the same: every test against `plain`."""

    def layers(model):
        [encoder] = [module for module in model.modules() if type(module).__name__ == "CLIPEncoder"]
        return len(encoder.layers)

    assert (layers(whole_model), layers(engine.model)) == (3, 2)


@pytest.fixture(scope="module")
def seen_videos(checkpoint, qa_root, video_root):
    """Four real clips with two questions each, which have different answers."""
    questions = load_questions(qa_file(qa_root, "MSVD"), "MSVD", video_root.joinpath)
    builder = checkpoint.prompt_builder(8)
    by_video = {}
    for question in questions:
        by_video.setdefault(question.video, []).append(question)
    pairs = [group[:2] for group in by_video.values() if len(group) > 1][:4]
    return [
        VideoQuestions(
            prepare_video(pair[0].video, checkpoint.pixel_spec, 8).pixels,
            builder.build([build_question_text(each.text, each.options) for each in pair]),
            [tuple(each.options) for each in pair],
        )
        for pair in pairs
    ]


@pytest.mark.parametrize("max_new_tokens", [1, 2, 4, 5, 20])
def test_replies_of_any_length_leave_the_batch_when_they_end(
    checkpoint, device, whole_model, seen_videos, max_new_tokens
):
    """With another token for the end: some replies end with their first token, some later, some never."""
    engine = load_engine(checkpoint, device, "float32", max_new_tokens)
    prompts = [(video, prompt) for video in seen_videos for prompt in video.prompts]
    first = answer_plainly(whole_model, checkpoint, *prompts[0])[0][0]
    expected = [
        answer_plainly(whole_model, checkpoint, *each, max_new_tokens=max_new_tokens, eos_token_id=first)[0]
        for each in prompts
    ]
    engine.end_ids = [first]
    engine.model.generation_config.eos_token_id = [first]
    rows = []
    head = engine.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    answers = engine.answer(seen_videos, batch_size=100)
    assert [answer.token_ids for each in answers for answer in each] == expected
    num_going = [sum(len(ids) > done for ids in expected) for done in range(max_new_tokens)]
    assert num_going[-1] > 0
    assert (num_going[-1] < num_going[0]) == (max_new_tokens > 1)
    assert rows[0] == len(seen_videos)  # the prefixes
    assert [rows[1 + done] for done in (0, 1, 4, 8, 16) if done < max_new_tokens] == [
        num_going[done] for done in (0, 1, 4, 8, 16) if done < max_new_tokens
    ]


def test_every_spelling_of_a_letter_counts(checkpoint):
    """`A`, ` A` as SentencePiece and as byte-level BPE write it, and the byte token, all read as the letter."""
    spellings = ["x", "A", "\u2581A", "\u0120A", "B", "AB"]
    read = {"\u2581A": " A", "\u0120A": " A"}

    class Tokenizer:
        pad_token_id = bos_token_id = 0

        def __len__(self):
            return len(spellings)

        def batch_decode(self, rows):
            return [read.get(spellings[id], spellings[id]) for [id] in rows]

    stand_in = SimpleNamespace(tokenizer=Tokenizer(), pixel_spec=checkpoint.pixel_spec, end_ids=(0,))
    assert Engine(SimpleNamespace(), stand_in, 1)._letter_ids == {
        "A": [1, 2, 3],
        "B": [4],
        "C": [],
        "D": [],
        "E": [],
        "F": [],
    }


def test_infinite_logits_are_found(engine, videos):
    head = engine.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, output: output * float("inf"))
    [[answer]] = engine.answer(videos[:1], batch_size=1)
    handle.remove()
    assert not answer.is_finite
    [[answer]] = engine.answer(videos[:1], batch_size=1)
    assert answer.is_finite


def test_settings_of_the_checkpoint_do_not_bend_greedy_decoding(checkpoint, tiny_model_path, tmp_path, videos, plain):
    copy = shutil.copytree(tiny_model_path, tmp_path / "model")
    settings = json.loads((copy / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "repetition_penalty": 50.0, "max_length": 3}
    (copy / "generation_config.json").write_text(json.dumps(settings))
    bent = load_engine(load_checkpoint(copy), open_device("cpu"), "float32", max_new_tokens=8)
    assert [[each.token_ids for each in answers] for answers in bent.answer(videos, 4)] == [
        [ids for ids, _ in answers] for answers in plain
    ]
