// A test double of an Ascend NPU: PyTorch's device PrivateUse1, named "npu", with the host's memory and the CPU's
// kernels. It shows how a program uses the device (where its tensors lie, what it copies, what it asks for), and says
// nothing about an NPU's numerics, missing operators or speed. Inference only.
//
// One translation unit in sections: counters.h, memory.h, device.h, operators.h; below, they are made known to PyTorch.
// It uses internal headers of ATen, so it goes with the release of torch that the tests pin.
#include "operators.h"

namespace sim_npu {
REGISTER_ALLOCATOR(kNpu, &g_allocator);
C10_REGISTER_GUARD_IMPL(PrivateUse1, CardGuard);
}  // namespace sim_npu

using namespace sim_npu;

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}
// Autocast: no casts, no crash.
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) { library.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", sim_npu::empty);
  library.impl("empty_strided", sim_npu::empty_strided);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("_local_scalar_dense", item);
  library.impl("convolution_overrideable", sim_npu::convolution);
  // Their composite kernels would otherwise be taken before the fallback, and round differently from the CPU's own.
  for (const char* name : {"scaled_dot_product_attention", "native_layer_norm"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  // Views share the storage, so they must not go through a kernel.
  library.impl("as_strided", sim_npu::as_strided);
  library.impl("view", [](const at::Tensor& self, c10::SymIntArrayRef size) {
    return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
  });
  library.impl("_reshape_alias", [](const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
    return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
  });
  library.impl("resize_", [](const at::Tensor& self, c10::SymIntArrayRef size,
                             std::optional<c10::MemoryFormat> format) -> const at::Tensor& {
    return at::native::resize_(self, C10_AS_INTARRAYREF_SLOW(size), format);
  });
  // With deterministic algorithms.
  library.impl("set_.source_Tensor", [](at::Tensor& self, const at::Tensor& other) -> at::Tensor& {
    return at::native::set_tensor_(self, other);
  });
  library.impl("set_.source_Storage",
               [](at::Tensor& self, at::Storage other) -> at::Tensor& { return at::native::set_(self, other); });
  library.impl("set_.source_Storage_storage_offset",
               [](at::Tensor& self, at::Storage other, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride)
                   -> at::Tensor& { return at::native::set_storage_cpu_(self, other, offset, size, stride); });
}

// What npu.py calls, as torch.ops.sim_npu.*
TORCH_LIBRARY(sim_npu, library) {
  library.def("init(int num_cards, int capacity, bool plain_error) -> ()",
              [](int64_t num_cards, int64_t capacity, bool plain_error) {
                TORCH_CHECK(num_cards >= 0 && num_cards <= kMaxCards, "0 to ", kMaxCards, " cards");
                g_num_cards = num_cards;
                g_capacity = capacity;
                g_plain_error = plain_error;
                if (!at::isPrivateUse1HooksRegistered()) at::RegisterPrivateUse1HooksInterface(new Hooks());
              });
  library.def("allocated(int card) -> int", [](int64_t card) {
    check_index(card);
    return g_usage[card].now.load();
  });
  library.def("peak(int card) -> int", [](int64_t card) {
    check_index(card);
    return g_usage[card].peak.load();
  });
  library.def("reset_peak(int card) -> ()", [](int64_t card) {
    check_index(card);
    g_usage[card].peak = g_usage[card].now.load();
  });
  library.def("current() -> int", [] { return static_cast<int64_t>(g_current); });
  library.def("set_current(int card) -> ()", [](int64_t card) {
    check_index(card);
    g_current = static_cast<c10::DeviceIndex>(card);
  });
  library.def("poison(str name, int call) -> ()", [](std::string name, int64_t call) {
    g_poison = {std::move(name), call};
  });
  library.def("counters() -> str", [] { return counters_as_json(); });
}
