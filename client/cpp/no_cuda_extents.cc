#include "absl/strings/str_cat.h"
#include "client/cpp/extents.h"

namespace kvsteward {

absl::StatusOr<std::unique_ptr<Extents>> ReserveCudaExtents(const std::string& uuid, uint64_t, uint64_t) {
  return absl::FailedPreconditionError(absl::StrCat("the sidecar's memory is on CUDA device ", uuid,
                                                    " and this client was built without CUDA: build it where cuda.h "
                                                    "is, or use a sidecar with device.kind host"));
}

}  // namespace kvsteward
