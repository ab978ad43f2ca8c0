// Device memory: bytes of the host, counted for each card, with an end.
#pragma once
#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <cstdlib>

namespace sim_npu {

constexpr auto kNpu = c10::DeviceType::PrivateUse1;
constexpr int kMaxCards = 16;
constexpr size_t kAlignment = 64;

inline thread_local c10::DeviceIndex g_current = 0;
inline std::atomic<int64_t> g_num_cards{1};
inline std::atomic<int64_t> g_capacity{int64_t(64) << 30};  // bytes that this process may have on each card
inline std::atomic<bool> g_plain_error{false};  // run out of memory with a plain RuntimeError, as some releases do

struct Usage {
  std::atomic<int64_t> now{0}, peak{0};
};
inline std::array<Usage, kMaxCards> g_usage;

inline void check_index(int64_t index) {
  TORCH_CHECK(index >= 0 && index < g_num_cards, "npu: invalid device index ", index, ", device count is ",
              g_num_cards.load());
}

inline size_t rounded_up(size_t num_bytes) { return (num_bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Stands before each block, so that freeing it knows what to count back, and where.
struct alignas(kAlignment) Header {
  int64_t num_bytes;
  int64_t card;
};

inline void free_block(void* block) {
  if (block == nullptr) return;
  auto* header = static_cast<Header*>(block) - 1;
  g_usage[header->card].now -= header->num_bytes;
  std::free(header);
}

class CardAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t num_bytes) override {
    const c10::Device device(kNpu, g_current);
    if (num_bytes == 0) return {nullptr, nullptr, &free_block, device};
    count(static_cast<int64_t>(num_bytes));
    void* raw = std::aligned_alloc(kAlignment, sizeof(Header) + rounded_up(num_bytes));
    TORCH_CHECK(raw != nullptr, "npu: the host itself is out of memory");
    auto* header = new (raw) Header{static_cast<int64_t>(num_bytes), g_current};
    return {header + 1, header + 1, &free_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, size_t num_bytes) const override { default_copy_data(to, from, num_bytes); }

 private:
  static void count(int64_t num_bytes) {
    auto& usage = g_usage[g_current];
    const int64_t now = (usage.now += num_bytes);
    if (now > g_capacity) {
      usage.now -= num_bytes;
      const auto message = c10::str("NPU out of memory. Tried to allocate ", num_bytes, " bytes (NPU ", int(g_current),
                                    "; ", g_capacity.load(), " bytes total capacity; ", usage.now.load(),
                                    " bytes already allocated)");
      if (g_plain_error) TORCH_CHECK(false, message);
      TORCH_CHECK_WITH(OutOfMemoryError, false, message);
    }
    for (int64_t peak = usage.peak; peak < now && !usage.peak.compare_exchange_weak(peak, now);) {
    }
  }
};
inline CardAllocator g_allocator;

}  // namespace sim_npu
