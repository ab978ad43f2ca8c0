// Operators: the CPU's kernel on the same bytes. Few are written here; all others go through `run_on_cpu`, which first
// refuses what a real device refuses, tensors of different devices in one operator.
#pragma once
#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/NativeFunctions.h>
#include <ATen/native/CPUFallback.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "counters.h"
#include "device.h"

namespace sim_npu {

using OptionalDevice = std::optional<c10::Device>;

inline bool is_npu(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == kNpu; }

// --- Tensors, made and seen anew ----------------------------------------------------------------------------------

// A CPU tensor over the same bytes. It lives no longer than the operator that it is made for.
inline at::Tensor host_alias(const at::Tensor& tensor) {
  if (!is_npu(tensor)) return tensor;
  auto impl = c10::make_intrusive<at::TensorImpl>(
      c10::Storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(),
                   at::DataPtr(tensor.storage().mutable_data(), c10::kCPU), nullptr, false),
      c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  impl->set_storage_offset(tensor.storage_offset());
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  at::Tensor alias(std::move(impl));
  if (tensor.is_conj()) alias._set_conj(true);
  if (tensor.is_neg()) alias._set_neg(true);
  return alias;
}

inline at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                        OptionalDevice device, std::optional<bool> pinned, std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_generic(size, &g_allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

inline at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                                std::optional<c10::Layout>, OptionalDevice device, std::optional<bool> pinned) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_strided_generic(size, stride, &g_allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

inline at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                             std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(
      self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? std::optional<int64_t>(offset->guard_int(__FILE__, __LINE__)) : std::nullopt);
}

// --- Copies, counted where they cross between host and device -------------------------------------------------------

inline at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool /*non_blocking*/) {
  if (is_npu(to) && !is_npu(from)) g_host_to_device.add(static_cast<int64_t>(from.nbytes()));
  if (is_npu(from) && !is_npu(to)) g_device_to_host.add(static_cast<int64_t>(from.nbytes()));
  host_alias(to).copy_(host_alias(from));
  return to;
}

inline at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

inline at::Scalar item(const at::Tensor& tensor) { return at::_local_scalar_dense(host_alias(tensor)); }

// A kernel's result, which lies in ordinary memory: a matter of the double, and not counted.
inline at::Tensor to_card(const at::Tensor& result, c10::Device card) {
  if (!result.defined() || is_npu(result)) return result;
  auto on_card = at::empty_strided(result.sizes(), result.strides(), result.options().device(card));
  host_alias(on_card).copy_(result);
  return on_card;
}

// --- NaN on request: the first value of one result, as a float16 overflow would leave it ----------------------------

struct Poison {
  std::string name;   // operator, "aten::scaled_dot_product_attention"; empty: none
  int64_t call = 0;   // index of the call, from 1
};
inline Poison g_poison;

inline void poison(const std::string& name, int64_t call, const at::Tensor& result) {
  if (name != g_poison.name || call != g_poison.call || !result.is_floating_point()) return;
  const auto alias = host_alias(result);
  alias.as_strided({1}, {1}, alias.storage_offset()).fill_(std::numeric_limits<double>::quiet_NaN());
}

// --- Every other operator -------------------------------------------------------------------------------------------

// Operators to which a real device, too, lets a CPU tensor come beside its own.
inline bool may_mix_devices(const std::string& name) {
  return name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_" ||
         name == "aten::copy_";
}

template <typename Visitor>
void visit_tensors(const c10::IValue& value, Visitor visit) {
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorList()) visit(tensor);
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList())
      if (tensor) visit(*tensor);
  }
}

template <typename Change>
c10::IValue change_tensors(const c10::IValue& value, Change change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorList()) list.push_back(change(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList())
      list.push_back(tensor ? std::optional<at::Tensor>(change(*tensor)) : tensor);
    return list;
  }
  return value;
}

// The card that an operator's arguments lie on. Raises if they lie on several devices; CPU scalars may come along.
inline OptionalDevice card_of(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments) {
  OptionalDevice card, other;
  for (const auto& argument : arguments) {
    visit_tensors(argument, [&](const at::Tensor& tensor) {
      if (!tensor.defined()) return;
      if (is_npu(tensor)) {
        if (!card) card = tensor.device();
        else if (*card != tensor.device()) other = tensor.device();
      } else if (tensor.dim() > 0 || tensor.device().type() != c10::kCPU) {
        other = tensor.device();
      }
    });
    if (!card && argument.isDevice() && argument.toDevice().type() == kNpu) card = argument.toDevice();
  }
  TORCH_CHECK(!card || !other || may_mix_devices(op.schema().name()),
              "Expected all tensors to be on the same device, but found at least two devices, ", *card, " and ",
              *other, "! (", op.schema().operator_name(), ")");
  return card;
}

// Tensors without a storage yet, which an operator fills: (the caller's, the CPU tensor in its place).
using Unfilled = std::vector<std::pair<at::Tensor, at::Tensor>>;

inline c10::IValue on_host(const c10::IValue& argument, bool is_written, Unfilled& unfilled) {
  if (argument.isDevice() && argument.toDevice().type() == kNpu) return c10::Device(c10::kCPU);
  return change_tensors(argument, [&](const at::Tensor& tensor) {
    if (!is_npu(tensor) || !is_written || tensor.numel() > 0) return host_alias(tensor);
    auto stand_in = at::empty_like(tensor, tensor.options().device(c10::kCPU));
    unfilled.emplace_back(tensor, stand_in);
    return stand_in;
  });
}

inline bool is_written(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

// The CPU's kernel sees the same strides, so it gives the same numbers as on the CPU, and writes need no copying back.
inline void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t num_arguments = schema.arguments().size(), num_returns = schema.returns().size();
  const std::vector<c10::IValue> arguments(stack->end() - num_arguments, stack->end());
  const auto card = card_of(op, arguments);
  const int64_t call = count_call(schema.name());

  Unfilled unfilled;
  stack->resize(stack->size() - num_arguments);
  for (size_t index = 0; index < num_arguments; ++index)
    stack->push_back(on_host(arguments[index], is_written(schema.arguments()[index]), unfilled));
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (auto& [tensor, filled] : unfilled) {
    if (filled.numel() == 0) continue;
    tensor.resize_(filled.sizes());
    host_alias(tensor).copy_(filled);
  }

  for (size_t index = 0; index < num_returns; ++index) {
    auto& result = (*stack)[stack->size() - num_returns + index];
    if (is_written(schema.returns()[index])) {  // in place, or out=: hand back the caller's own tensor
      for (size_t from = 0; from < num_arguments; ++from) {
        const auto* info = schema.arguments()[from].alias_info();
        if (info && *info == *schema.returns()[index].alias_info()) {
          result = arguments[from];
          break;
        }
      }
    } else if (card) {
      result = change_tensors(result, [&](const at::Tensor& tensor) { return to_card(tensor, *card); });
    }
    if (index == 0 && result.isTensor() && result.toTensor().defined()) poison(schema.name(), call, result.toTensor());
  }
}

// The one operator for which ATen has a special entry for foreign devices, in place of the way through run_on_cpu.
inline at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                              c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                              bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  TORCH_CHECK(input.device() == weight.device(),
              "Expected all tensors to be on the same device, but found at least two devices, ", input.device(),
              " and ", weight.device(), "!");
  count_call("aten::convolution_overrideable");
  const auto host_bias = bias ? std::optional<at::Tensor>(host_alias(*bias)) : std::nullopt;
  return to_card(at::convolution_symint(host_alias(input), host_alias(weight), host_bias, stride, padding, dilation,
                                        transposed, output_padding, std::move(groups)),
                 input.device());
}

}  // namespace sim_npu
