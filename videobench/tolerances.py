"""All tolerances of the suite: how large a difference rounding explains in a dtype, and where the number comes from.

Two correct runs differ if their kernels, order of additions or dtypes differ. Measured differences, in nats:
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
    # Two devices, in nats: a question's largest difference. Four to five times the largest measured value; float32 uses
    # float16's tolerance, since TF32 and HF32 multiply with as few bits (10).
    devices: float
    # Effect of one rounding, in nats: a smaller lead is not clear. For float16 and bfloat16 the spacing of numbers from
    # 16 to 32, the range of a language model's largest logits; for float32 the difference of two engines.
    step: float
    # One device, the same question computed in two ways, in nats: like `devices`, but with full float32.
    one_device: float
    # A module's result compared with the CPU's, relative, by norm. In 16 bits: half a step of the result. In float32:
    # the effect of another summation order; n products added one by one are off by 2 ** -24 * sqrt(n / 6), which is
    # 2.6e-6 for the 11008 of a 7B. Correct devices stayed below 0.5 times that in float32, 4.8 in 16 bits
    # (benchmarks/README.md).
    module: float
    # A product of 512 x 512 matrices compared with the CPU's, largest difference divided by the largest entry: a few
    # steps of the dtype; in float32 the effect of 512 additions in another order. TF32 and HF32 have float16's steps,
    # so they are detected.
    product: float


TOLERANCES = {  # the finest dtype first
    "float32": Tolerances(devices=0.1, step=0.002, one_device=1e-3, module=2**-19, product=1e-5),
    "float16": Tolerances(devices=0.1, step=2**-6, one_device=0.1, module=2**-11, product=4e-3),
    "bfloat16": Tolerances(devices=0.5, step=2**-3, one_device=0.5, module=2**-8, product=3e-2),
}
# Largest relative difference of one forward pass's logits between the cards that share the weights.
SAME_LOGITS = 1e-3
