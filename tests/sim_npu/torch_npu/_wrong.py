"""Operators that compute something else, as those of real devices have done: SIM_NPU_WRONG names one."""

import warnings

import torch
import torch.nn.functional as F
from torch import library

SATURATES_AT = 2.0  # of a score, in `softmax`; of a logit, in `log-softmax`
LAST_COUNT = 60  # in `positions`
OVERFLOWS_AT = 8.0  # of a product of float16, in `float16`
SHORT_MASK = 512  # keys, in `long-mask`
WRONG_ROW = 5
NOISE = 0.02
PART = 16  # of a sum, in `sum-order`
BLOCK = 32  # tokens, in `length-32`
LATE = 4  # decoding steps, in `late`
WRONG_CARD = 1  # in `card-1`


def _on_host(*tensors):
    return [each.cpu() if isinstance(each, torch.Tensor) else each for each in tensors]


def _attention(change_inputs=None, change_output=None):
    """`change_inputs(query, key, given)` returns other arguments, and `change_output(output, query, key, given)` writes
    into the output, all on the host."""

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
        query_, key_, value_, mask = _on_host(query, key, value, attn_mask)
        given = {"attn_mask": mask, "is_causal": is_causal}
        changed = change_inputs(query_, key_, given) if change_inputs else given
        output = F.scaled_dot_product_attention(query_, key_, value_, **changed, scale=scale, enable_gqa=enable_gqa)
        if change_output:
            change_output(output, query_, key_, given)
        return output.to(query.device)

    return attention


def _lose_causal(query, key, given):
    return given | {"is_causal": False}


def _lose_long_mask(query, key, given):
    is_hit = query.shape[2] == 1 and key.shape[2] > SHORT_MASK
    return given | ({"attn_mask": None} if is_hit else {})


def _invert_mask(query, key, given):
    mask = given["attn_mask"]
    return given if mask is None else given | {"attn_mask": ~mask}


def _average(query, key, given):
    """Without a mask: the average of all values."""
    if given["attn_mask"] is None and not given["is_causal"] and query.shape[2] > 1:
        query.zero_()
    return given


def _plain_attention(change):
    """Operator by operator, in the tensors' dtype; `change` sees the scores."""

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
        query_, key_, value_, mask = _on_host(query, key, value, attn_mask)
        heads = query_.shape[1] // key_.shape[1]
        key_, value_ = key_.repeat_interleave(heads, 1), value_.repeat_interleave(heads, 1)
        scores = change(query_ @ key_.transpose(-1, -2) * (scale or query_.shape[-1] ** -0.5))
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1) @ value_).to(query.device)

    return attention


def _overwriting_rows(first):
    """Overwrite the rows of a text batch from `first` on (counted from 1) with the first row."""

    def change(output, query, key, given):
        if given["attn_mask"] is not None:
            output[first - 1 :] = output[:1]

    return change


def _overwrite_videos(output, query, key, given):
    """In a prefix with several videos."""
    if given["is_causal"] and given["attn_mask"] is None:
        output[1:] = output[:1]


def _lose_block(output, query, key, given):
    if key.shape[2] % BLOCK == 0 and given["attn_mask"] is not None:
        output[:, :, -1] = 0


class _Late:
    """Counts the decoding steps of a batch by the keys, of which each step has one more."""

    keys = step = 0

    def __call__(self, output, query, key, given):
        if query.shape[2] > 1:
            self.keys, self.step = key.shape[2], 0
        elif key.shape[2] != self.keys:
            self.keys, self.step = key.shape[2], self.step + 1
        if self.step >= LATE:
            output.mul_(0.5)


def _gelu_of_a_card(tensor, *, approximate="none"):
    wrong = "tanh" if tensor.device.index == WRONG_CARD else approximate
    return F.gelu(tensor.cpu(), approximate=wrong).to(tensor.device)


def _gelu(tensor, *, approximate="none"):
    return F.gelu(tensor.cpu(), approximate="tanh").to(tensor.device)


def _silu(tensor):
    noise = 1 + NOISE * torch.randn(tensor.shape)
    return (F.silu(tensor.cpu().float()) * noise).to(tensor.dtype).to(tensor.device)


def _cat(tensors, dim=0):
    is_rope = len(tensors) == 2 and dim == -1 and tensors[0].dim() == 4 and tensors[0].shape == tensors[1].shape
    return torch.cat(_on_host(*(reversed(tensors) if is_rope else tensors)), dim).to(tensors[0].device)


def _row(left, right):
    product = left.cpu() @ right.cpu()
    if right.shape[0] == right.shape[1]:
        product[..., WRONG_ROW] = product[..., WRONG_ROW + 1]
    return product.to(left.device)


def _in_parts(left, right):
    """Not wrong: sums in another order, as other devices have it."""
    parts = zip(left.cpu().float().split(PART, -1), right.cpu().float().split(PART, 0), strict=True)
    product = sum(one @ other for one, other in parts)
    return product.to(left.dtype).to(left.device)


def _overflowing(left, right):
    product = left.cpu() @ right.cpu()
    if product.dtype == torch.float16:
        product = torch.where(product.abs() > OVERFLOWS_AT, product.sign() * torch.inf, product)
    return product.to(left.device)


def _layer_norm(tensor, shape, weight, bias, eps):
    host = _on_host(tensor, weight, bias)
    return tuple(each.to(tensor.device) for each in torch.native_layer_norm(host[0], shape, *host[1:], eps * 1e4))


def _convolution(tensor, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    host = _on_host(tensor, weight.transpose(2, 3), bias)
    return torch.convolution(*host, stride, padding, dilation, transposed, output_padding, groups).to(tensor.device)


def _divide(tensor, other):
    """In place, as the pixels are; 10 % too little."""
    return tensor.copy_((tensor.cpu() / torch.as_tensor(other).cpu() * 0.9).to(tensor.device))


def _count_up(tensor, dim, *, dtype=None):
    return tensor.cpu().cumsum(dim, dtype=dtype).clamp(max=LAST_COUNT).to(tensor.device)


def _log_softmax(tensor, dim, half_to_float):
    return torch._log_softmax(tensor.cpu().clamp(-SATURATES_AT, SATURATES_AT), dim, half_to_float).to(tensor.device)


def _argmax(tensor, dim=None, keepdim=False):
    """The second best."""
    return tensor.cpu().float().topk(2, dim).indices.select(dim, 1).to(tensor.device)


ATTENTION = "scaled_dot_product_attention"
WRONG = {
    "gelu": ("gelu", _gelu),
    "rope": ("cat", _cat),
    "causal": (ATTENTION, _attention(_lose_causal)),
    "long-mask": (ATTENTION, _attention(_lose_long_mask)),
    "polarity": (ATTENTION, _attention(_invert_mask)),
    "uniform": (ATTENTION, _attention(_average)),
    "softmax": (ATTENTION, _plain_attention(lambda scores: scores.clamp(-SATURATES_AT, SATURATES_AT))),
    "row": ("mm", _row),
    "float16": ("mm", _overflowing),
    "layer-norm": ("native_layer_norm", _layer_norm),
    "convolution": ("convolution_overrideable", _convolution),
    "not-repeatable": ("silu", _silu),
    "pixels": ("div_.Tensor", _divide),
    "positions": ("cumsum", _count_up),
    "log-softmax": ("_log_softmax", _log_softmax),
    "argmax": ("argmax", _argmax),
    **{f"rows-{first}": (ATTENTION, _attention(change_output=_overwriting_rows(first))) for first in (2, 3, 16)},
    "videos": (ATTENTION, _attention(change_output=_overwrite_videos)),
    "length-32": (ATTENTION, _attention(change_output=_lose_block)),
    "late": (ATTENTION, _attention(change_output=_Late())),
    "card-1": ("gelu", _gelu_of_a_card),
}
# Another way to the same: none of them may be called a fault.
SOUND = {"sum-order": ("mm", _in_parts), "unfused": (ATTENTION, _plain_attention(lambda scores: scores))}
_planted = []  # the fault lasts as long as its library


def plant(name: str) -> None:
    operator, kernel = (WRONG | SOUND)[name]
    planted = library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kernel is replaced
        planted.impl(operator, kernel, "PrivateUse1", allow_override=True)
    _planted.append(planted)


def mend() -> None:
    while _planted:
        _planted.pop()._destroy()
