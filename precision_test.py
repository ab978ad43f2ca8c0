"""Compare two runs, e.g. on an NPU and on a GPU: accuracies, agreement, numeric divergence and a verdict.

python precision_test.py --eval_npu_path Chat_results_npu/sampling_data_eval.json \
    --eval_gpu_path Chat_results_gpu/sampling_data_eval.json \
    --sampling_answer_path egs/Video-Bench/Eval_QA/sampling_answer.json --report_html report.html
"""

import videobench  # rejects an old Python; so this file must be valid in any Python


def main(argv=None):
    """The exit status."""
    from videobench.report.command import main

    return main(argv)


if __name__ == "__main__":
    videobench.start(main)
