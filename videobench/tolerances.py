"""What rounding explains, for each dtype: every tolerance of the suite, and where its number comes from.

Two sound runs differ: another kernel, another order of additions, another dtype. What is sound was measured, in nats:
  Qwen2.5-7B, one input, two engines, root mean square of a token's log-probability: 0.002 in float32, 0.02 to 0.04 in
  bfloat16 (https://github.com/ServiceNow/Fast-LLM/pull/525);
  LLaMA-7B with and without cache, largest difference of a logit: 0.00001 in float32, 0.02 in float16, 0.125 in
  bfloat16 (https://github.com/huggingface/transformers/issues/25420);
  the small model of the tests against itself in float32, median over questions of the largest difference among their
  options: 0.03 in bfloat16 (demo.sh prints it).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerances:
    # Two devices, nats: a question's largest difference. Four to five times the largest of those measured; float32 has
    # float16's, since TF32 and HF32 multiply with its 10 bits.
    devices: float
    # What one rounding moves, nats: no smaller lead is a clear one. The spacing of float16 and bfloat16 numbers from 16
    # to 32, where a language model's largest logits lie, and the difference of two engines in float32.
    step: float
    # One device, the same question computed in two ways, nats: as `devices`, but nothing shortens its float32.
    one_device: float
    # A module's result against the CPU's, relative, norm-wise: half a step of the result in 16 bits; in float32 what
    # sums in another order leave: n products, added up one by one, are off by 2 ** -24 * sqrt(n / 6), which is 2.6e-6
    # for the 11008 of a 7B. Sound devices stayed below 0.5 times that in float32, 4.8 in 16 bits (docs/locating.md).
    module: float
    # A product of 512 x 512 matrices against the CPU's, largest difference over the largest entry: some steps of the
    # dtype; of float32, what 512 additions in another order do. TF32 and HF32 have the steps of float16, and show.
    product: float


TOLERANCES = {  # the finest dtype first
    "float32": Tolerances(devices=0.1, step=0.002, one_device=1e-3, module=2**-19, product=1e-5),
    "float16": Tolerances(devices=0.1, step=2**-6, one_device=0.1, module=2**-11, product=4e-3),
    "bfloat16": Tolerances(devices=0.5, step=2**-3, one_device=0.5, module=2**-8, product=3e-2),
}
# Logits of one forward pass on a group's cards, or again on the same cards, against the largest: another prompt moves
# them more.
SAME_LOGITS = 1e-3
