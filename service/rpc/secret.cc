#include "service/rpc/secret.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

namespace kvsteward::rpc {

core::Secret NewSecret() {
  core::Secret secret;
  ssize_t got;
  do {
    got = getrandom(secret.data(), secret.size(), 0);
  } while (got < 0 && errno == EINTR);
  // A kernel without randomness is no place to hand out rights to memory.
  if (got != static_cast<ssize_t>(secret.size())) std::abort();
  return secret;
}

}  // namespace kvsteward::rpc
