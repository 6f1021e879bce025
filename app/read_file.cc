#include "app/read_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/status/status.h"

namespace kvsteward::app {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  if (!file.is_open() && errno == ENOENT) return absl::NotFoundError(path + ": there is no such file");
  std::ostringstream content;
  content << file.rdbuf();                 // of an empty file this fails, but is not bad
  if (!file.is_open() || content.bad()) {  // the latter is a directory
    return absl::InvalidArgumentError(path + " cannot be read: " + std::strerror(errno));
  }
  return content.str();
}

}  // namespace kvsteward::app
