"""Answer Video-Bench with LLaVA-NeXT-Video on a CUDA GPU.

python run_gpu.py --model_path LLaVA-NeXT-Video-7B-hf --dataset_name sampling_data --Eval_QA_root egs/Video-Bench/ \
    --Eval_Video_root egs/VideoBench/ --chat_conversation_output_folder Chat_results
"""

import sys
from collections.abc import Sequence

from videobench.errors import run_script
from videobench.options import parse_args
from videobench.runner import run


def main(argv: Sequence[str] | None = None) -> int:
    return run(parse_args(argv, device="cuda"))


if __name__ == "__main__":
    sys.exit(run_script(main))
