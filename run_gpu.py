"""Answer Video-Bench with LLaVA-NeXT-Video on a CUDA GPU.

python run_gpu.py --model_path LLaVA-NeXT-Video-7B-hf --dataset_name sampling_data --Eval_QA_root egs/Video-Bench/ \
    --Eval_Video_root egs/VideoBench/ --chat_conversation_output_folder Chat_results
"""

import videobench  # rejects an old Python; so this file must be valid in any Python


def main(argv=None):
    """The exit status."""
    from videobench.run.command import main

    return main(argv, device="cuda")


if __name__ == "__main__":
    videobench.start(main)
