#include "core/spec/spec_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace diffmoe {
namespace {

class ReadSpecFileTest : public testing::Test {
 protected:
  ReadSpecFileTest() {
    std::string pattern = testing::TempDir() + "/spec_file_XXXXXX";
    dir_ = mkdtemp(pattern.data());
  }
  ~ReadSpecFileTest() override { std::filesystem::remove_all(dir_); }

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = dir_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  std::string dir_;
};

TEST_F(ReadSpecFileTest, ReadsARegularFileOfAnyAllowedSize) {
  EXPECT_EQ(ReadSpecFile(Write("a", "name: x\n")).value(), "name: x\n");
  EXPECT_EQ(ReadSpecFile(Write("b", "")).value(), "");
  EXPECT_EQ(ReadSpecFile(Write("c", std::string(kMaxSpecBytes, 'x')))->size(), kMaxSpecBytes);
}

TEST_F(ReadSpecFileTest, RefusesBySize) {
  const auto text = ReadSpecFile(Write("big", std::string(10 << 20, 'x')));
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(text.status().message(),
                                "big: expected a spec of at most 1048576 bytes, got 10485760"))
      << text.status();
}

TEST_F(ReadSpecFileTest, RefusesWhatIsNoRegularFile) {
  const std::string fifo = dir_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  for (const auto& [path, kind] :
       {std::pair{fifo, "a FIFO"}, {std::string("/dev/zero"), "a device"}, {dir_, "a directory"}}) {
    const auto text = ReadSpecFile(path);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_EQ(text.status().message(), absl::StrCat(path, ": expected a regular file, got ", kind));
  }
}

TEST_F(ReadSpecFileTest, MissingFileIsNotFoundWithItsPath) {
  const auto text = ReadSpecFile(dir_ + "/none");
  EXPECT_EQ(text.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(text.status().message(), dir_ + "/none")) << text.status();
}

}  // namespace
}  // namespace diffmoe
