#include "service/memory/cgroup.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace kvsteward::memory {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

class CgroupTest : public testing::Test {
 protected:
  CgroupTest() {
    std::string name = testing::TempDir() + "cgroupXXXXXX";
    root_ = mkdtemp(name.data());
  }
  ~CgroupTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  // A line of mountinfo. `point` is below the test's directory; `root` is the cgroup that is mounted there.
  std::string V2(const std::string& root, const std::string& point) {
    return "31 24 0:27 " + root + " " + root_ + "/" + point + " rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
  }
  std::string V1(const std::string& root, const std::string& point, const std::string& controllers) {
    return "36 31 0:32 " + root + " " + root_ + "/" + point + " rw,relatime - cgroup cgroup rw," + controllers + "\n";
  }
  uint64_t Limit() { return CgroupMemoryLimit(root_ + "/cgroup", root_ + "/mountinfo"); }
  uint64_t Room() { return CgroupMemoryRoom(root_ + "/cgroup", root_ + "/mountinfo"); }

  std::string root_;
};

TEST_F(CgroupTest, TheSmallestOfOursAndTheAncestorsCounts) {
  Write("cgroup", "0::/a/b/c");
  Write("mountinfo", V2("/", "fs"));
  Write("fs/a/b/c/memory.max", "max");
  Write("fs/a/b/memory.max", "4096000");
  Write("fs/a/memory.max", "8192000");
  EXPECT_EQ(Limit(), 4096000u);
  Write("fs/a/b/c/memory.max", "1234567");
  EXPECT_EQ(Limit(), 1234567u);
  Write("fs/a/memory.max", "1000");
  EXPECT_EQ(Limit(), 1000u);
}

TEST_F(CgroupTest, NoLimitAnywhereIsUnlimited) {
  EXPECT_EQ(Limit(), kUnlimited);  // no files at all
  Write("cgroup", "0::/");
  Write("mountinfo", V2("/", "fs"));
  EXPECT_EQ(Limit(), kUnlimited);  // the root has no memory.max
  Write("fs/memory.max", "max");
  EXPECT_EQ(Limit(), kUnlimited);
}

TEST_F(CgroupTest, V1TakesTheMemoryHierarchyOnly) {
  Write("cgroup", "5:cpu,cpuacct:/x\n4:memory:/pod/one\n1:name=systemd:/");
  Write("mountinfo", V1("/", "cpu", "cpu,cpuacct") + V1("/", "memory", "memory"));
  Write("cpu/x/memory.limit_in_bytes", "5");
  Write("memory/pod/one/memory.limit_in_bytes", "9223372036854771712");
  EXPECT_EQ(Limit(), kUnlimited);
  Write("memory/pod/memory.limit_in_bytes", "777216");
  EXPECT_EQ(Limit(), 777216u);
}

// In a container without a cgroup namespace the path counts from the host's root, of which only a part is mounted.
TEST_F(CgroupTest, PathsCountFromTheMountedRoot) {
  Write("cgroup", "0::/docker/abc/inner");
  Write("mountinfo", V2("/docker/abc", "fs"));
  Write("fs/memory.max", "9000");
  Write("fs/inner/memory.max", "8000");
  EXPECT_EQ(Limit(), 8000u);
  Write("cgroup", "0::/docker/abcdef");  // another one, whose name only begins alike
  EXPECT_EQ(Limit(), 9000u);
  Write("cgroup", "0::/../../other");
  EXPECT_EQ(Limit(), 9000u);
}

TEST_F(CgroupTest, BlanksInMountPointsAreUnescaped) {
  Write("cgroup", "0::/a");
  Write("mountinfo", V2("/", "with\\040blank"));
  Write("with blank/a/memory.max", "4321");
  EXPECT_EQ(Limit(), 4321u);
}

TEST_F(CgroupTest, NonsenseLimitsNothing) {
  Write("cgroup", "nonsense\n:\n0::relative\n0::");
  Write("mountinfo", "1 2 3\n - \n" + V2("/", "fs"));
  Write("fs/memory.max", "twelve");
  EXPECT_EQ(Limit(), kUnlimited);
}

TEST_F(CgroupTest, TheLeastRoomOfOursAndTheAncestorsCounts) {
  Write("cgroup", "0::/a/b");
  Write("mountinfo", V2("/", "fs"));
  Write("fs/a/b/memory.current", "700");
  EXPECT_EQ(Room(), kUnlimited);  // usage alone limits nothing
  Write("fs/a/b/memory.max", "1000");
  EXPECT_EQ(Room(), 300u);
  Write("fs/a/memory.max", "5000");
  EXPECT_EQ(Room(), 300u);
  Write("fs/a/memory.current", "4900");
  EXPECT_EQ(Room(), 100u);
  Write("fs/a/memory.stat", "anon 10\nfile 90\ninactive_file 50");
  EXPECT_EQ(Room(), 150u);
  Write("fs/a/memory.current", "6000");
  EXPECT_EQ(Room(), 0u);
}

TEST_F(CgroupTest, RoomInV1) {
  Write("cgroup", "4:memory:/pod");
  Write("mountinfo", V1("/", "memory", "memory"));
  Write("memory/pod/memory.limit_in_bytes", "1000");
  EXPECT_EQ(Room(), 1000u);
  Write("memory/pod/memory.usage_in_bytes", "800");
  EXPECT_EQ(Room(), 200u);
  Write("memory/pod/memory.stat", "inactive_file 500\ntotal_inactive_file 100");
  EXPECT_EQ(Room(), 300u);
}

TEST(Cgroup, OurOwnCanBeRead) { EXPECT_GT(CgroupMemoryLimit(), 0u); }

}  // namespace
}  // namespace kvsteward::memory
