// A daemon, and clients of a small model against it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kvsteward/client.h"
#include "tests/client/daemon.h"

namespace kvsteward {

inline constexpr ModelGeometry kGeometry{
    .layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16, .dtype = ElementType::kF32};
inline constexpr uint64_t kBlockBytes = 2 * 16 * 16 * 4;
inline constexpr uint32_t kRows = 8;

inline ClientOptions Options(const testing::Daemon& daemon, const std::string& tenant = "red") {
  ClientOptions options;
  options.address = daemon.address();
  options.fd_socket = daemon.fd_socket(tenant);
  options.geometry = kGeometry;
  options.window_rows = kRows;
  options.window_slots = 2;
  options.plan_bytes = 1u << 20;
  return options;
}

inline std::unique_ptr<Client> Attach(const ClientOptions& options) {
  auto client = Client::Attach(options);
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : nullptr;
}

inline EvictOptions Budget(const std::string& policy, uint32_t tokens) {
  EvictOptions options;
  options.policy = policy;
  options.budget_tokens = tokens;
  options.window = {.rows = kRows, .slot = 1};
  options.export_plan = true;
  options.export_scores = true;
  return options;
}

class DaemonTest : public ::testing::Test {
 protected:
  testing::Daemon daemon_;
};

}  // namespace kvsteward
