"""What to look at for each kind of departure: causes that broke real ports, the likeliest first."""

OVERFLOW = (
    "overflow: float16 ends at 65504, so --dtype bfloat16 or float32; on an NPU leave INF_NAN_MODE_ENABLE at 1: "
    "0 hides it"
)
OWN_KERNEL = "this operator's own kernel, and releases of torch_npu and CANN that do not fit each other"
ATTENTION = "scaled_dot_product_attention"
CAUSAL_ATTENTION = "the attention operator's causal flag: is_causal without a mask must hide later keys"
PLAIN_ATTENTION = "the attention operator without a mask: its scale, layout of heads, the range of its softmax"
ONE_QUERY = (
    "the attention operator for one query: masks that it ignores beyond 512 keys, polarity of the mask, lengths of the "
    "keys"
)
MASKED_ATTENTION = (
    "the attention operator's mask: polarity (True is seen), dtype (bool; a float mask is added), its broadcast over "
    "heads"
)
PRODUCT = (
    "the matrix product: rows of the weight as loaded, NZ format (torch.npu.config.allow_internal_format), HF32 or "
    "TF32 in place of float32"
)
ROPE = "rope: halves or pairs, positions beyond its cache, base and scaling, float32 until cos and sin are there"
# In place of a module's name: what a run computes outside of the modules (outside.py).
PIXELS, COPIES, POSITIONS = "the normalised pixels", "copies of the cache", "the positions"
TOKENS, LETTERS = "the tokens that are chosen", "the options' log-probabilities"
# By the operator that departs.
OPERATORS = {
    "npu_fusion_attention": "the polarity of its mask (True is hidden, the opposite of torch's), sparse_mode, scale",
    "gelu": "the formula: an NPU computes tanh's whatever is asked for; TORCH_NPU_USE_COMPATIBLE_IMPL=1 before the "
    "start (TorchNPU 26.0.0 and later) gives erf's",
    "linear": PRODUCT,
    "conv2d": "the convolution: layout of its weight (private formats, transposed axes), HF32 or TF32 for float32",
    "layer_norm": "its eps, and which axes it normalises",
    "softmax": "the range of its exponential, the axis, masked rows",
    "embedding": "the rows of the embedding, and the dtype of the indices",
    "masked_scatter": "the order in which places are filled, and the mask's broadcast",
    "avg_pool2d": "its window, stride and rounding at the edge",
}
OUTSIDE = {
    PIXELS: "the copy to the device, and subtracting and dividing in place",
    COPIES: "copies of keys and values for a video's questions: expand, index_select, writing into part of a buffer",
    POSITIONS: "cumsum of whole numbers, and masked_fill",
    TOKENS: "argmax: its axis, and equal numbers",
    LETTERS: "log_softmax, logsumexp and indexing by a list, in float32",
}
# By the end of the module's name, where the operator says no more.
MODULES = {
    "rotary_emb": ROPE,
    "self_attn": ROPE + "; the cache of keys and values; the attention operator",
    "get_video_features": "the order of frames and patches: views and copies of tensors that are not contiguous",
    "norm": "its eps, and where it returns to 16 bits",
    "lm_head": PRODUCT,
    "mlp": "the activation's formula, and products in 16 bits",
    "language_model": "how the mask is made from the padding, and the positions",
}


def look_at(module: str, place: str, operator: str | None, overflows: bool) -> str:
    """`place`: as "decoding step"; `operator`: its whole call, as "gelu(float32 (8, 9, 128))"."""
    if overflows:
        return OVERFLOW
    if module in OUTSIDE:
        return OUTSIDE[module]
    if operator is None:
        return next((text for end, text in MODULES.items() if module.endswith(end)), OWN_KERNEL)
    name = operator.partition("(")[0]
    if name == ATTENTION:
        return _attention(operator, place)
    if name in OPERATORS:
        return OPERATORS[name]
    return ROPE if module.endswith("self_attn") else f"{name}: {OWN_KERNEL}"


def _attention(call: str, place: str) -> str:
    if "attn_mask=None" in call:
        return CAUSAL_ATTENTION if "is_causal=True" in call else PLAIN_ATTENTION
    return ONE_QUERY if place == "decoding step" else MASKED_ATTENTION
