// What the tests ask for afterwards: how often each operator ran, and what was copied between host and device.
#pragma once
#include <atomic>
#include <map>
#include <mutex>
#include <sstream>
#include <string>

namespace sim_npu {

struct Copies {
  std::atomic<int64_t> count{0}, bytes{0};
  void add(int64_t num_bytes) {
    ++count;
    bytes += num_bytes;
  }
};

inline Copies g_host_to_device, g_device_to_host;

inline std::mutex g_calls_mutex;
inline std::map<std::string, int64_t> g_calls;  // by operator, "aten::mm"

// The number of this call among those of the operator, from 1.
inline int64_t count_call(const std::string& name) {
  std::lock_guard<std::mutex> lock(g_calls_mutex);
  return ++g_calls[name];
}

// As JSON. Operators' names need no escaping.
inline std::string counters_as_json() {
  std::ostringstream out;
  out << "{\"host_to_device\": {\"count\": " << g_host_to_device.count << ", \"bytes\": " << g_host_to_device.bytes
      << "}, \"device_to_host\": {\"count\": " << g_device_to_host.count << ", \"bytes\": " << g_device_to_host.bytes
      << "}, \"calls\": {";
  std::lock_guard<std::mutex> lock(g_calls_mutex);
  const char* separator = "";
  for (const auto& [name, count] : g_calls) {
    out << separator << '"' << name << "\": " << count;
    separator = ", ";
  }
  out << "}}";
  return out.str();
}

}  // namespace sim_npu
