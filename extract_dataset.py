"""Sample questions of Video-Bench with their videos and answers, or verify such a sample.

python extract_dataset.py --Eval_QA_root egs/Video-Bench/ --Eval_Video_root egs/VideoBench/ \
    --sampling_output_folder egs/VideoBench/Eval_video --json_output_path egs/Video-Bench/Eval_QA \
    --correct_answer_file egs/Video-Bench/ANSWER.json --nums 1000
python extract_dataset.py --verify egs/Video-Bench/Eval_QA/sampling_manifest.json
"""

import videobench  # rejects an old Python; so this file must be valid in any Python


def main(argv=None):
    """The exit status."""
    from videobench.sampling.command import main

    return main(argv)


if __name__ == "__main__":
    videobench.start(main)
