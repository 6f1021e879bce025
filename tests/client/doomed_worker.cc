// A worker that the test of worker deaths kills. It holds one large sequence and evicts others for ever; it writes a
// byte to standard output once it holds what it should, and another before every eviction.
//   doomed_worker ADDRESS FD_SOCKET TOKENS_TO_HOLD
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "kvsteward/client.h"
#include "tests/client/tokens.h"

namespace {

constexpr kvsteward::ModelGeometry kGeometry{
    .layers = 8, .query_heads = 8, .kv_heads = 4, .head_dim = 64, .dtype = kvsteward::ElementType::kF32};
constexpr uint32_t kTokens = 2048;  // 32 MiB: long enough to be killed within its eviction

[[noreturn]] void Fail(const absl::Status& status) {
  std::fprintf(stderr, "doomed_worker: %s\n", status.ToString().c_str());
  _exit(1);
}

void Say(char what) {
  if (write(STDOUT_FILENO, &what, 1) != 1) _exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  kvsteward::ClientOptions options;
  options.address = argv[1];
  options.fd_socket = argv[2];
  options.geometry = kGeometry;
  const auto held_tokens = static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10));
  auto client = kvsteward::Client::Attach(options);
  if (!client.ok()) Fail(client.status());
  kvsteward::testing::FillWindow((*client)->WindowSlot(0), kGeometry, options.window_rows);
  auto held = (*client)->CreateSequence(1, held_tokens);
  if (!held.ok()) Fail(held.status());
  if (absl::Status status = held->Reserve(held_tokens); !status.ok()) Fail(status);
  Say('h');
  for (uint64_t id = 2;; ++id) {
    auto sequence = (*client)->CreateSequence(id, kTokens);
    if (!sequence.ok()) Fail(sequence.status());
    if (absl::Status status = sequence->Reserve(kTokens); !status.ok()) Fail(status);
    kvsteward::testing::Tokens tokens(*sequence, kGeometry, 1);
    tokens.WriteUpTo(kTokens);
    kvsteward::EvictOptions eviction;
    eviction.budget_tokens = 100;
    eviction.window.rows = options.window_rows;
    Say('e');
    if (auto evicted = sequence->Evict(eviction); !evicted.ok()) Fail(evicted.status());
  }
}
