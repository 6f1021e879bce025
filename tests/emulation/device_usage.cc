#include "tests/emulation/device_usage.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string_view>

namespace kvsteward::emulation {
namespace {

// "kvsteward-device:<name>:", before the size.
std::string Prefix() {
  const char* const name = std::getenv("KVSTEWARD_EMULATED_DEVICE");
  return std::string("kvsteward-device:") + (name == nullptr ? "0" : name) + ":";
}

// The size in a memfd's path, "/memfd:<name> (deleted)"; 0 if it is not `prefix`'s.
uint64_t BytesIn(std::string_view path, const std::string& prefix) {
  const size_t at = path.find("/memfd:" + prefix);
  if (at == std::string_view::npos) return 0;
  return std::strtoull(std::string(path.substr(at + 7 + prefix.size())).c_str(), nullptr, 10);
}

std::string LinkTarget(const std::string& path) {
  std::array<char, 256> target{};
  const ssize_t length = readlink(path.c_str(), target.data(), target.size());
  return length < 0 ? std::string() : std::string(target.data(), static_cast<size_t>(length));
}

// Calls each(name) for the entries of a folder.
template <class Each>
void ForEntries(const std::string& folder, const Each& each) {
  const std::unique_ptr<DIR, int (*)(DIR*)> open(opendir(folder.c_str()), closedir);
  if (open == nullptr) return;
  while (const dirent* entry = readdir(open.get())) each(std::string(entry->d_name));
}

}  // namespace

std::string ObjectName(uint64_t bytes) { return Prefix() + std::to_string(bytes); }

uint64_t ObjectBytes(int descriptor) {
  return BytesIn(LinkTarget("/proc/self/fd/" + std::to_string(descriptor)), Prefix());
}

uint64_t UsedBytes() {
  const std::string prefix = Prefix();
  std::map<uint64_t, uint64_t> objects;  // by inode
  ForEntries("/proc", [&](const std::string& process) {
    if (process.find_first_not_of("0123456789") != std::string::npos) return;
    const std::string fds = "/proc/" + process + "/fd/";
    ForEntries(fds, [&](const std::string& fd) {
      const uint64_t bytes = BytesIn(LinkTarget(fds + fd), prefix);
      struct stat of {};
      if (bytes > 0 && stat((fds + fd).c_str(), &of) == 0) objects[of.st_ino] = bytes;
    });
    // A line: range, permissions, offset, device, inode, path.
    std::ifstream maps("/proc/" + process + "/maps");
    for (std::string line; std::getline(maps, line);) {
      const uint64_t bytes = BytesIn(line, prefix);
      if (bytes == 0) continue;
      size_t at = 0;
      for (int field = 0; field < 4; ++field) at = line.find(' ', at) + 1;
      objects[std::strtoull(line.c_str() + at, nullptr, 10)] = bytes;
    }
  });
  uint64_t used = 0;
  for (const auto& [inode, bytes] : objects) used += bytes;
  return used;
}

}  // namespace kvsteward::emulation
