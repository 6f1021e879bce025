// How extents are cut into blocks.
#include "service/core/layout.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "service/core/core.h"

namespace kvsteward::core {
namespace {

TEST(Layout, CutsExtentsIntoWholeBlocksAndPages) {
  struct Case {
    uint64_t block_bytes, extent_bytes, page_bytes;
    uint64_t expected_bytes, expected_blocks, expected_private;
  };
  for (const Case& c : std::vector<Case>{
           {256, 4096, 1024, 4096, 16, 3072},
           {8192, 64 << 20, 4096, 64 << 20, 8192, 3 << 19},
           {768, 4096, 1024, 3072, 4, 1024},        // least common multiple of block and page is 3072
           {768, 100, 1024, 3072, 4, 1024},         // never less than one
           {1 << 20, 4096, 4096, 1 << 20, 1, 4096}  // a block larger than what was asked for
       }) {
    Config config;
    config.extent_bytes = c.extent_bytes;
    config.page_bytes = c.page_bytes;
    const std::optional<Layout> layout = LayoutFor({1, c.block_bytes}, config);
    ASSERT_TRUE(layout.has_value());
    EXPECT_EQ(layout->extent_bytes, c.expected_bytes);
    EXPECT_EQ(layout->blocks_per_extent, c.expected_blocks);
    EXPECT_EQ(layout->private_bytes, c.expected_private);
  }
}

TEST(Layout, CutsExtentsIntoWholeGranulesWhereTheDeviceHasSome) {
  Config config;
  config.extent_bytes = 64 << 20;
  config.extent_granularity = 2 << 20;
  EXPECT_EQ(LayoutFor({1, 8192}, config)->extent_bytes, 64u << 20);
  EXPECT_EQ(LayoutFor({1, 5120}, config)->extent_bytes, 60u << 20);  // of 10 MiB each: 5120 is 5 * 1024
  config.extent_bytes = 4 << 20;
  EXPECT_EQ(LayoutFor({1, 5120}, config)->extent_bytes, 10u << 20);
  EXPECT_EQ(LayoutFor({1, 5120}, config)->private_bytes, 2048u * 192);
}

TEST(Layout, RefusesWhatOverflows) {
  Config config;
  EXPECT_FALSE(LayoutFor({1, 0}, config).has_value());
  EXPECT_FALSE(LayoutFor({1, UINT64_MAX}, config).has_value());
  EXPECT_FALSE(LayoutFor({1, (uint64_t{1} << 62) + 1}, config).has_value());
  config.extent_bytes = uint64_t{1} << 40;
  EXPECT_FALSE(LayoutFor({1, 64}, config).has_value());  // more than 2^32 blocks
  EXPECT_FALSE(RoundUp(UINT64_MAX, 4096).has_value());
  EXPECT_EQ(RoundUp(4097, 4096), 8192u);
}

}  // namespace
}  // namespace kvsteward::core
