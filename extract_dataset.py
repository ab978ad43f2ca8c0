"""Sample questions of Video-Bench with their videos and answers.

python extract_dataset.py --Eval_QA_root egs/Video-Bench/ --Eval_Video_root egs/VideoBench/ \
    --sampling_output_folder egs/VideoBench/Eval_video --json_output_path egs/Video-Bench/Eval_QA \
    --correct_answer_file egs/Video-Bench/ANSWER.json --nums 1000
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from videobench.dataset import SAMPLE_NAME, resolve_names
from videobench.errors import FlagParser, InputError, run_script
from videobench.sampling import SampleSettings, choose, load_candidates, write_sample


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse_args(argv)
    candidates = load_candidates(settings)
    questions = choose(candidates, settings.nums, settings.seed)
    paths = write_sample(questions, candidates, settings)
    for path in paths:
        print(path)
    videos = len({each.video for each in questions})
    print(f"sampled {len(questions)} questions on {videos} videos into {settings.output_folder / SAMPLE_NAME}")
    return 0


def parse_args(argv: Sequence[str] | None) -> SampleSettings:
    parser = FlagParser(description="Sample questions of Video-Bench with their videos and answers.")
    parser.add_argument("--Eval_QA_root", type=Path, default=Path("egs/Video-Bench"), help="folder that holds Eval_QA/")
    parser.add_argument(
        "--Eval_Video_root", type=Path, default=Path("egs/VideoBench"), help="folder that holds Eval_video/"
    )
    parser.add_argument(
        "--sampling_output_folder",
        type=Path,
        help="the videos go to sampling_data/ in this folder (default: Eval_video in Eval_Video_root)",
    )
    parser.add_argument(
        "--json_output_path", type=Path, help="the three JSON files go here (default: Eval_QA in Eval_QA_root)"
    )
    parser.add_argument("--correct_answer_file", type=Path, help="default: ANSWER.json in Eval_QA_root")
    parser.add_argument("--nums", type=int, default=1000, help="number of questions (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same sample (default: %(default)s)"
    )
    parser.add_argument("--datasets", default="all", help="sets to draw from, with commas (default: %(default)s)")
    parser.add_argument("--copy_mode", choices=("copy", "hardlink", "symlink"), default="copy")
    args = parser.parse_args(argv)
    if args.nums < 1:
        parser.error("--nums is at least 1")
    names = tuple(resolve_names(args.datasets, args.Eval_QA_root))
    if SAMPLE_NAME in names:
        raise InputError("--datasets: a sample cannot be drawn from a sample; name sets of Video-Bench, or all")
    return SampleSettings(
        qa_root=args.Eval_QA_root,
        video_root=args.Eval_Video_root,
        answer_path=args.correct_answer_file or args.Eval_QA_root / "ANSWER.json",
        output_folder=args.sampling_output_folder or args.Eval_Video_root / "Eval_video",
        json_folder=args.json_output_path or args.Eval_QA_root / "Eval_QA",
        names=names,
        nums=args.nums,
        seed=args.seed,
        copy_mode=args.copy_mode,
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
