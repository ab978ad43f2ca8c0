"""What the tests on the simulated NPU share (tests/device)."""

import pytest
import torch

SET = "MSVD"
DTYPES = ["float32", "float16", "bfloat16"]
LIMIT = 8
ATTENTION = "aten::scaled_dot_product_attention"
SIMULATOR = torch.ops.sim_npu
MEMORY_BYTES = 64 << 30


def same_answers(rows, others, tolerance):
    assert list(rows) == list(others)
    for key, row in rows.items():
        for field in ("output_sequence", "num_output_tokens", "pixels_sha256", "prompt_sha256"):
            assert row[field] == others[key][field], (key, field)
        assert row["letter_logprobs"] == pytest.approx(others[key]["letter_logprobs"], rel=0, abs=tolerance), key
