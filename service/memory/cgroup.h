// How much memory our control groups allow. A pool above that would be killed, not refused. Stateless.
#pragma once

#include <cstdint>
#include <string>

namespace kvsteward::memory {

// The smallest memory limit of our cgroup and its ancestors as far as they are mounted, v2 (memory.max) and v1
// (memory.limit_in_bytes); the largest uint64_t if there is none. What cannot be read limits nothing.
uint64_t CgroupMemoryLimit(const std::string& cgroup_file = "/proc/self/cgroup",
                           const std::string& mountinfo_file = "/proc/self/mountinfo");

// The same for what is left below those limits: limit less usage, where cached file pages that the kernel would drop
// first (memory.stat's inactive_file) count as left. A limit whose usage cannot be read leaves all of it.
uint64_t CgroupMemoryRoom(const std::string& cgroup_file = "/proc/self/cgroup",
                          const std::string& mountinfo_file = "/proc/self/mountinfo");

}  // namespace kvsteward::memory
