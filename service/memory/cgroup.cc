#include "service/memory/cgroup.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>
#include <vector>

namespace kvsteward::memory {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();
// v1 writes "no limit" as the largest number of bytes in whole pages.
constexpr uint64_t kNoLimitInV1 = uint64_t{1} << 62;

// Our cgroup in one hierarchy.
struct Membership {
  bool v2 = false;
  std::string path;
};

// Where a hierarchy is mounted, and which of its cgroups lies there.
struct Mount {
  bool v2 = false;
  std::string root;
  std::string point;
};

bool HasWord(const std::string& list, std::string_view word) {
  std::istringstream words(list);
  for (std::string each; std::getline(words, each, ',');) {
    if (each == word) return true;
  }
  return false;
}

// Undoes the kernel's \ooo for blanks and backslashes.
std::string Unescape(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto octal = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// Lines are "id:controllers:path"; v2 is "0::path".
std::vector<Membership> ReadMemberships(const std::string& file) {
  std::vector<Membership> memberships;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (v2 || HasWord(controllers, "memory")) memberships.push_back({v2, line.substr(second + 1)});
  }
  return memberships;
}

// Lines are "id parent major:minor root point options ... - type source superoptions".
std::vector<Mount> ReadMounts(const std::string& file) {
  std::vector<Mount> mounts;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream head(line.substr(0, dash));
    std::istringstream tail(line.substr(dash + 3));
    std::string skipped, root, point, type, source, options;
    head >> skipped >> skipped >> skipped >> root >> point;
    tail >> type >> source >> options;
    const bool v2 = type == "cgroup2";
    if (v2 || (type == "cgroup" && HasWord(options, "memory"))) mounts.push_back({v2, Unescape(root), Unescape(point)});
  }
  return mounts;
}

// 0 if the file does not begin with a number.
uint64_t ReadNumber(const std::string& file) {
  std::ifstream stream(file);
  uint64_t number = 0;
  return stream >> number ? number : 0;
}

// One cgroup's own limit. `directory` is where it is mounted.
uint64_t ReadLimit(const std::string& directory, bool v2) {
  std::ifstream stream(directory + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
  uint64_t limit = 0;
  if (!(stream >> limit) || limit >= kNoLimitInV1) return kUnlimited;  // "max" is no number
  return limit;
}

// How many bytes of it can be dropped when they are wanted.
uint64_t ReadDroppable(const std::string& directory, bool v2) {
  std::ifstream stat(directory + "/memory.stat");
  uint64_t bytes = 0;
  for (std::string key; stat >> key >> bytes;) {
    if (key == (v2 ? "inactive_file" : "total_inactive_file")) return bytes;
  }
  return 0;
}

uint64_t ReadRoom(const std::string& directory, bool v2) {
  const uint64_t limit = ReadLimit(directory, v2);
  if (limit == kUnlimited) return kUnlimited;
  const uint64_t usage = ReadNumber(directory + (v2 ? "/memory.current" : "/memory.usage_in_bytes"));
  const uint64_t held = usage - std::min(usage, ReadDroppable(directory, v2));
  return limit - std::min(limit, held);
}

// Our cgroup's path below the mount point: "" or "/a/b". A mount of some other part of the tree shows us nothing but
// its own limit.
std::string PathBelow(const Mount& mount, const std::string& path) {
  const std::string root = mount.root == "/" ? "" : mount.root;
  const bool inside =
      path.compare(0, root.size(), root) == 0 && (path.size() == root.size() || path[root.size()] == '/');
  if (!inside || path.find("/..") != std::string::npos) return "";
  const std::string below = path.substr(root.size());
  return below.empty() || below[0] != '/' || below == "/" ? "" : below;
}

// The smallest of what `read` says of our cgroups and their ancestors.
uint64_t Smallest(const std::string& cgroup_file, const std::string& mountinfo_file,
                  uint64_t (*read)(const std::string& directory, bool v2)) {
  uint64_t smallest = kUnlimited;
  const std::vector<Mount> mounts = ReadMounts(mountinfo_file);
  for (const Membership& ours : ReadMemberships(cgroup_file)) {
    for (const Mount& mount : mounts) {
      if (mount.v2 != ours.v2) continue;
      std::string below = PathBelow(mount, ours.path);
      while (true) {
        smallest = std::min(smallest, read(mount.point + below, mount.v2));
        if (below.empty()) break;
        below.resize(below.rfind('/'));
      }
    }
  }
  return smallest;
}

}  // namespace

uint64_t CgroupMemoryLimit(const std::string& cgroup_file, const std::string& mountinfo_file) {
  return Smallest(cgroup_file, mountinfo_file, ReadLimit);
}

uint64_t CgroupMemoryRoom(const std::string& cgroup_file, const std::string& mountinfo_file) {
  return Smallest(cgroup_file, mountinfo_file, ReadRoom);
}

}  // namespace kvsteward::memory
