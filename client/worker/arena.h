// The arena in which the demo shows what eviction is for: room for one and a half full caches. Values.
#pragma once

#include <cstdint>
#include <string>

#include "client/worker/model.h"
#include "client/worker/task.h"

namespace kvsteward::worker {

// Where caches lie and attention runs.
enum class Device : uint8_t { kHost, kCuda };

struct DemoArena {
  uint64_t bytes = 0;
  uint64_t extent_bytes = 0;
  uint64_t table_chunk_bytes = 0;
  uint64_t plan_bytes = 0;  // of the plan of a whole prompt, in which every resident may stay
  // Extents are whole granules of the device: what they hold beyond one and a half caches is kept busy by a sequence of
  // so many tokens.
  uint32_t busy_tokens = 0;
};

DemoArena ArenaFor(const ModelConfig& config, const Task& task, Device device);

// The section of a sidecar's configuration.
std::string ArenaYaml(const DemoArena& arena);

}  // namespace kvsteward::worker
