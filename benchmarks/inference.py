"""How fast questions are answered, against the original script's way.

python benchmarks/inference.py                            # on the CPU: a middle-sized model, float32
python benchmarks/inference.py --device cuda --shape 7b   # LLaVA-NeXT-Video-7B's sizes, bfloat16
python benchmarks/inference.py --device npu --shape 7b    # the same on an NPU

Makes 720p clips of 10 to 60 s (a minute or two, once: --folder keeps them) and a checkpoint with random weights. The
original's way is one plain `generate` for each question, with its video decoded whole on one thread; it answers the
first questions, and its time is scaled up. This suite's way is run_gpu.py, started as a user does; its time is the one
that it prints, without its start. Replies have two tokens, as nearly all real ones (a letter and the end). Exit status
1 if an answer differs in float32.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.frames import NUM_FRAMES, count_frames, decode_everything  # noqa: E402
from tests.support.clip_writer import write_clip  # noqa: E402
from tests.support.random_checkpoint import SHAPES, make_model, save_checkpoint, write_checkpoint  # noqa: E402
from videobench.data.dataset import build_question_text, load_questions, qa_file  # noqa: E402
from videobench.device.devices import KINDS, open_device, release_memory  # noqa: E402
from videobench.model.checkpoint import load_checkpoint  # noqa: E402
from videobench.model.engine import Engine  # noqa: E402
from videobench.video.pixels import normalise, resize_and_crop  # noqa: E402

SET = "MSVD"  # any of the 13 names
CLIP_SECONDS = (60, 10, 40, 20, 50, 30)  # the first two are on average as long as all
OPTIONS = {"A": "a red ball", "B": "a blue ball", "C": "a green ball", "D": "a white ball"}
REPLY_TOKENS = 2
COLUMNS = ("questions a video", "original, s", "this suite, s", "times as fast", "questions/s", "equal answers")


def main() -> int:
    args = parse_args()
    device = open_device(args.device)
    dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = write_checkpoint(SHAPES[args.shape], folder / f"sizes-{args.shape}")
        model = make_model(sizes, device.torch_device, getattr(torch, dtype))
        save_checkpoint(sizes, folder / f"checkpoint-{args.shape}", model)
        checkpoint = load_checkpoint(folder / f"checkpoint-{args.shape}")
        clips = make_clips(folder, args.clip_size)
        made = {
            count: make_questions(folder / str(count), clips, args.num_questions, count) for count in args.questions
        }
        plain = {count: answer_plainly(model, checkpoint, asked, args.plain_questions) for count, asked in made.items()}
        del model
        release_memory(device)
        print(f"{device.name}, {os.cpu_count()} cores, {args.shape} in {dtype}, {args.num_questions} questions a row\n")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        all_equal = True
        for count, (original_s, expected) in plain.items():
            flags = [f"--device={args.device}", f"--dtype={dtype}", f"--num_workers={args.num_workers}"]
            suite_s, rows = answer_as_a_user(checkpoint.path, folder / str(count), flags)
            equal, words = compare(expected, rows)
            all_equal &= equal
            times = (f"{original_s:.1f}", f"{suite_s:.1f}", f"{original_s / suite_s:.1f}", f"{len(rows) / suite_s:.2f}")
            print("| " + " | ".join([str(count), *times, words]) + " |", flush=True)
    return 0 if all_equal or dtype != "float32" else 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=KINDS, default="cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="mid")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 3, 29], help="a video (default: 1 3 29)")
    parser.add_argument("--num_questions", type=int, default=72, help="of each row (default: %(default)s)")
    parser.add_argument("--plain_questions", type=int, default=24, help="for the original's way (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count())
    parser.add_argument("--clip_size", type=int, nargs=2, default=(1280, 720), help="width and height")
    parser.add_argument("--folder", type=Path, help="keeps the clips for the next time")
    return parser.parse_args()


def make_clips(folder: Path, size: tuple[int, int]) -> list[Path]:
    """Make the clips that are missing: H.264 with a key frame every ten seconds; `size` is (width, height)."""
    clips = {folder / f"{seconds} s, {size[0]}x{size[1]}.mp4": seconds for seconds in CLIP_SECONDS}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # a fork of a process with threads can hang
        for made in [pool.submit(_make_clip, *clip, size) for clip in clips.items() if not clip[0].is_file()]:
            made.result()
    return list(clips)


def _make_clip(path: Path, seconds: int, size: tuple[int, int]) -> None:
    unfinished = path.with_name(f"unfinished {path.name}")
    write_clip(unfinished, "libx264", 25 * seconds, size, gop=250, options={"preset": "veryfast"})
    unfinished.rename(path)


def make_questions(folder: Path, clips: list[Path], count: int, per_video: int) -> list:
    """Write a QA file and the videos that it names: links to the clips, one after another."""
    videos, content = folder / "Eval_video" / SET, {}
    videos.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"{number // per_video}.mp4"
        (videos / name).unlink(missing_ok=True)
        os.link(clips[number // per_video % len(clips)], videos / name)
        content[str(number)] = {
            "video_id": name, "vid_path": f"Eval_video/{SET}/{name}", "choices": OPTIONS,
            "question": f"Which color is the ball that moves in part {number} of the video?",
        }  # fmt: skip
    qa_file(folder, SET).parent.mkdir(exist_ok=True)
    qa_file(folder, SET).write_text(json.dumps(content))
    return load_questions(qa_file(folder, SET), SET, folder.joinpath)


def answer_plainly(model, checkpoint, questions: list, most: int) -> tuple[float, dict]:
    """Return the seconds for all questions, and key -> (reply, log-probability of each option) of the first ones."""
    builder, letter_ids = checkpoint.prompt_builder(NUM_FRAMES), Engine(model, checkpoint, REPLY_TOKENS)._letter_ids
    counts = {each.video: count_frames(each.video) for each in questions[:most]}  # the original knows them before
    prompts = builder.build([build_question_text(each.text, each.options) for each in questions[:most]])
    answers, begun = {}, time.monotonic()
    for question, prompt in zip(questions[:most], prompts, strict=True):
        ids = torch.tensor([prompt.prefix_ids + prompt.suffix_ids], device=model.device)
        frames = decode_everything(question.video, counts[question.video])
        pixels = resize_and_crop(frames, checkpoint.pixel_spec)[None].to(model.device)
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=REPLY_TOKENS,
            pixel_values_videos=normalise(pixels, checkpoint.pixel_spec, model.dtype),
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        text = checkpoint.tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True).strip()
        logprobs = output.logits[0][0].float().log_softmax(-1).cpu()
        answers[question.key] = text, {each: float(logprobs[letter_ids[each]].logsumexp(-1)) for each in OPTIONS}
    return (time.monotonic() - begun) * len(questions) / len(answers), answers


def answer_as_a_user(model_path: Path, folder: Path, flags: list[str]) -> tuple[float, dict]:
    """Return the seconds that the run prints, and its rows."""
    out = folder / "out"
    command = [sys.executable, "run_gpu.py", f"--model_path={model_path}", f"--Eval_QA_root={folder}", *flags]
    command += [f"--Eval_Video_root={folder}", f"--dataset_name={SET}", f"--chat_conversation_output_folder={out}"]
    command += [f"--num_frames={NUM_FRAMES}", f"--max_new_tokens={REPLY_TOKENS}", "--overwrite", "--verbose"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    took = re.search(r"\d questions in ([\d.]+) s ", done.stderr)
    if done.returncode or not took:
        raise SystemExit(f"the run ended with status {done.returncode}: {done.stderr[-2000:]}")
    return float(took[1]), json.loads((out / f"{SET}_eval.json").read_text())


def compare(expected: dict, rows: dict) -> tuple[bool, str]:
    """Return whether all replies are equal and log-probabilities within 1e-4, and how far, in words."""
    equal = sum(rows[key]["output_sequence"] == [text] for key, (text, _) in expected.items())
    apart = max(
        abs(rows[key]["letter_logprobs"][each] - value)
        for key, (_, all_) in expected.items()
        for each, value in all_.items()
    )
    return equal == len(expected) and apart < 1e-4, f"{equal} of {len(expected)}, log-probabilities to {apart:.0e}"


if __name__ == "__main__":
    sys.exit(main())
