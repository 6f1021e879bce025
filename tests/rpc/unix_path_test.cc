#include <string>

#include "gtest/gtest.h"
#include "service/rpc/server.h"

namespace kvsteward::rpc {
namespace {

TEST(UnixPathTest, OnlyAbsolutePathsThatMeanThemselves) {
  EXPECT_EQ(*UnixPath("unix:/a/b"), "/a/b");
  EXPECT_EQ(*UnixPath("unix:///a/b"), "/a/b");
  for (const std::string address : {"", "/a", "unix:", "unix:a", "unix://a/b", "unix:/a%20b", "unix:/a?b", "unix:/a#b",
                                    "unix:/a,b", "unix-abstract:a", "localhost:80", "dns:///a"}) {
    EXPECT_EQ(UnixPath(address).status().code(), absl::StatusCode::kInvalidArgument) << address;
  }
}

}  // namespace
}  // namespace kvsteward::rpc
