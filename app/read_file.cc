#include "app/read_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/status/status.h"

namespace kvsteward::app {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  if (!file.is_open() && errno == ENOENT) return absl::NotFoundError(path + ": there is no such file");
  std::string text;
  char bytes[4096];
  while (file.read(bytes, sizeof(bytes)), file.gcount() > 0) text.append(bytes, static_cast<size_t>(file.gcount()));
  if (!file.is_open() || file.bad()) {  // the latter is a directory
    return absl::InvalidArgumentError(path + " cannot be read: " + std::strerror(errno));
  }
  return text;
}

}  // namespace kvsteward::app
