"""Answer Video-Bench with LLaVA-NeXT-Video on an NPU or a GPU, and compare the two."""
