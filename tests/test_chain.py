"""From QA files to the score with a model that sees: frames, order, prompts, engine and reading are right together.

The small model answers nearly all questions of the small data set. It cannot without the right video, nor, where the
question is on order or direction, with the frames in the wrong order.
"""

import json
import random
from dataclasses import replace

import pytest
import torch

import run_gpu
from videobench.data.dataset import build_question_text, load_answers, resolve_names
from videobench.data.letters import read_letter
from videobench.device.devices import open_device
from videobench.model.checkpoint import load_checkpoint
from videobench.model.engine import load_engine
from videobench.video.frames import sample_frames
from videobench.video.pixels import normalise
from videobench.video.pool import prepare_video

# Kinds of questions whose answer is another one when the frames are shown backwards.
ORDER_KINDS = {"direction", "first_color", "first_shape", "last_color", "last_shape"}


def run_all(qa_root, video_root, model_path, out, *flags):
    """(dataset, id) -> result row, of every data set that is there."""
    argv = ["--Eval_QA_root", str(qa_root), "--Eval_Video_root", str(video_root), "--model_path", str(model_path)]
    argv += ["--chat_conversation_output_folder", str(out), "--dataset_name", "all", "--device", "cpu"]
    assert run_gpu.main([*argv, *flags]) == 0
    files = [out / f"{name}_eval.json" for name in resolve_names("all", qa_root)]
    return {(row["dataset"], key): row for file in files for key, row in json.loads(file.read_text()).items()}


def is_right(row, letter):
    return read_letter(row["output_sequence"][0], row["choices"]) == letter


def accuracy(rows, answers, names=None):
    names = list(rows if names is None else names)
    return sum(is_right(rows[name], answers[name]) for name in names) / len(names)


def chance(rows):
    return sum(1 / len(row["choices"]) for row in rows.values()) / len(rows)


@pytest.fixture(scope="module")
def answers(qa_root):
    return load_answers(qa_root / "ANSWER.json")


@pytest.fixture(scope="module")
def qa_rows(qa_root):
    """(dataset, id) -> row of the QA file."""
    rows = {}
    for name in resolve_names("all", qa_root):
        for id, row in json.loads((qa_root / f"Eval_QA/{name}_QA_new.json").read_text()).items():
            rows[name, id] = row
    return rows


@pytest.fixture(scope="module")
def replies(qa_root, video_root, tiny_model_path, tmp_path_factory):
    return run_all(qa_root, video_root, tiny_model_path, tmp_path_factory.mktemp("all"), "--num_workers", "2")


def test_every_question_of_every_set_is_answered_once(replies, qa_rows, answers):
    assert set(replies) == set(qa_rows) == set(answers)
    assert len(replies) == 339  # as the README says


def test_nearly_all_answers_are_right_and_some_are_not(replies, answers):
    assert 0.90 <= accuracy(replies, answers) < 1


def test_with_another_questions_video_the_answers_fall_to_chance(
    replies, answers, qa_rows, qa_root, video_root, tiny_model_path, tmp_path
):
    names = list(qa_rows)
    shuffled = list(names)
    random.Random(0).shuffle(shuffled)
    (tmp_path / "qa/Eval_QA").mkdir(parents=True)
    for dataset in {dataset for dataset, _ in names}:
        rows = {
            id: {**qa_rows[dataset, id], "vid_path": qa_rows[other]["vid_path"]}
            for (own, id), other in zip(names, shuffled, strict=True)
            if own == dataset
        }
        (tmp_path / f"qa/Eval_QA/{dataset}_QA_new.json").write_text(json.dumps(rows))
    swapped = run_all(tmp_path / "qa", video_root, tiny_model_path, tmp_path / "out")
    assert accuracy(swapped, answers) < chance(replies) + 0.12


def test_with_the_frames_reversed_questions_on_order_are_answered_wrongly(
    replies, answers, qa_rows, qa_root, video_root, tiny_model_path, tmp_path, monkeypatch
):
    def sample_reversed(*arguments):
        frames = sample_frames(*arguments)
        return replace(frames, pixels=frames.pixels[::-1].copy())

    monkeypatch.setattr("videobench.video.pool.sample_frames", sample_reversed)
    mirrored = run_all(qa_root, video_root, tiny_model_path, tmp_path, "--num_workers", "0")
    on_order = [
        name for name, row in qa_rows.items() if row["kind"] in ORDER_KINDS and len(replies[name]["choices"]) > 1
    ]
    others = [name for name in qa_rows if name not in on_order]
    assert len(on_order) > 50
    assert accuracy(replies, answers, on_order) > 0.85
    assert accuracy(mirrored, answers, on_order) < 0.3
    assert accuracy(mirrored, answers, others) > 0.85


def test_ids_equal_one_plain_generate_per_question(replies, qa_rows, video_root, tiny_model_path):
    """Every question of the small data set, in float32, without batches, shared prefixes or a pool of workers."""
    checkpoint = load_checkpoint(tiny_model_path)
    engine = load_engine(checkpoint, open_device("cpu"), "float32", max_new_tokens=60)
    builder = checkpoint.prompt_builder(8)
    pixels = {}
    for name, row in replies.items():
        vid_path = qa_rows[name]["vid_path"]
        if vid_path not in pixels:
            prepared = prepare_video(video_root / vid_path, checkpoint.pixel_spec, 8)
            pixels[vid_path] = normalise(prepared.pixels[None], checkpoint.pixel_spec, torch.float32)
        [prompt] = builder.build([build_question_text(qa_rows[name]["question"], row["choices"])])
        ids = torch.tensor([prompt.prefix_ids + prompt.suffix_ids])
        output = engine.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=pixels[vid_path],
            max_new_tokens=60,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = output.sequences[0, ids.shape[1] :].tolist()
        assert len(new) == row["num_output_tokens"], name
        assert checkpoint.tokenizer.decode(new, skip_special_tokens=True).strip() == row["output_sequence"][0], name
        logprobs = output.logits[0][0].log_softmax(-1)
        for letter, logprob in row["letter_logprobs"].items():
            id = checkpoint.tokenizer.convert_tokens_to_ids(letter)
            assert logprob == pytest.approx(float(logprobs[id]), abs=1e-3), name
