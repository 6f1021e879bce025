// Any bytes as a safetensors file: refused, or every tensor lies inside the file and can be read.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/safetensors.h"
#include "base/unique_fd.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const kvsteward::UniqueFd fd(memfd_create("fuzz", MFD_CLOEXEC));
  if (!fd || write(fd.get(), data, size) != static_cast<ssize_t>(size)) std::abort();
  const auto file = kvsteward::safetensors::File::Open("/proc/self/fd/" + std::to_string(fd.get()));
  if (!file.ok()) return 0;
  size_t sum = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    if (tensor.bytes.size() != static_cast<size_t>(tensor.elements()) * SizeOf(tensor.type)) std::abort();
    for (const std::byte b : tensor.bytes) sum += static_cast<size_t>(b);
  }
  volatile size_t sink = sum;
  (void)sink;
  return 0;
}
