// What PyTorch asks of a device: which card is current, its streams (there are none: everything is done at once), its
// random numbers (those of the CPU), its storages.
#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstring>

#include "memory.h"

namespace sim_npu {

struct CardGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kNpu; }
  c10::Device exchangeDevice(c10::Device device) const override {
    auto previous = getDevice();
    setDevice(device);
    return previous;
  }
  c10::Device getDevice() const override { return {kNpu, g_current}; }
  void setDevice(c10::Device device) const override {
    check_index(device.index());
    g_current = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0) g_current = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override { return g_num_cards; }

  static c10::Stream on(c10::Device device) { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getStream(c10::Device device) const override { return on(device); }
  c10::Stream getNewStream(c10::Device device, int = 0) const override { return on(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};

// A generator of device npu is a front for one of the CPU, its twin, which is what the CPU's kernels are given.
struct Generator final : at::CPUGeneratorImpl {
  at::Generator twin;
  Generator(c10::DeviceIndex index, at::Generator cpu) : twin(std::move(cpu)) {
    device_ = c10::Device(kNpu, index);
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
  void set_current_seed(uint64_t seed) override { twin.set_current_seed(seed); }
  uint64_t current_seed() const override { return twin.current_seed(); }
  uint64_t seed() override { return twin.seed(); }
  void set_state(const c10::TensorImpl& state) override { twin.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return twin.unsafeGetGeneratorImpl()->get_state(); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return g_num_cards > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return g_num_cards; }
  c10::DeviceIndex getCurrentDevice() const override { return g_current; }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    check_index(index);
    g_current = index;
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    auto previous = g_current;
    setCurrentDevice(index);
    return previous;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return index < 0 ? g_current : exchangeDevice(index);
  }
  at::Device getDeviceFromPtr(void*) const override { return {kNpu, g_current}; }

  at::Allocator* getPinnedMemoryAllocator() const override { return &g_pinned; }
  bool isPinnedPtr(const void* pointer) const override { return PinnedAllocator::holds(pointer); }

  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<Generator>(index < 0 ? g_current : index, at::detail::createCPUGenerator());
  }
  // Shared with the CPU: one manual_seed gives the same samples on both.
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    static std::array<at::Generator, kMaxCards> generators = [] {
      std::array<at::Generator, kMaxCards> made;
      for (int card = 0; card < kMaxCards; ++card)
        made[card] = at::make_generator<Generator>(card, at::detail::getDefaultCPUGenerator());
      return made;
    }();
    return generators[index < 0 ? g_current : index];
  }

  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t num_bytes) const override {
    c10::DeviceGuard guard(storage.device());
    auto block = g_allocator.allocate(num_bytes);
    std::memcpy(block.get(), storage.data(), std::min(num_bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(block));
    storage.unsafeGetStorageImpl()->set_nbytes(num_bytes);
  }
};

}  // namespace sim_npu
