#include "client/cpp/received_object.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace kvsteward {
namespace {

std::string Describe(const ReceivedObject& object) {
  static constexpr const char* kNames[] = {"object", "extent", "table chunk", "statistics region", "plan region"};
  const char* name = object.kind <= KVS_PLANS ? kNames[object.kind] : kNames[0];
  return absl::StrCat("the sidecar's ", name, " ", object.index);
}

}  // namespace

absl::Status Wrong(const ReceivedObject& object, const std::string& why) {
  return absl::InternalError(absl::StrCat(Describe(object), " ", why));
}

absl::Status CheckFile(const ReceivedObject& object) {
  struct stat file {};
  if (fstat(object.fd.get(), &file) != 0) return Wrong(object, absl::StrCat("cannot be read: ", std::strerror(errno)));
  if (object.bytes == 0 || file.st_size < 0 || static_cast<uint64_t>(file.st_size) != object.bytes) {
    return Wrong(object, absl::StrCat("is announced with ", object.bytes, " bytes but has ", file.st_size));
  }
  const int seals = fcntl(object.fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return Wrong(object, "is not sealed against shrinking");
  return absl::OkStatus();
}

absl::Status MapFailed(const ReceivedObject& object) {
  return absl::ResourceExhaustedError(absl::StrCat(Describe(object), " cannot be mapped: ", std::strerror(errno)));
}

}  // namespace kvsteward
