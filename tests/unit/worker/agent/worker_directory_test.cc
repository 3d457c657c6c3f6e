#include "worker/agent/worker_directory.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "tests/support/temp_dir.h"

namespace diffmoe {
namespace {

namespace fs = std::filesystem;

class PruneLogsTest : public testing::Test {
 protected:
  PruneLogsTest() {
    auto directory = WorkerDirectory::Open(dir_.Sub("w"));
    EXPECT_TRUE(directory.ok()) << directory.status();
    directory_ = *std::move(directory);
  }

  // A sparse log, last written `age` seconds ago.
  std::string MakeLog(int number, int64_t bytes, int age) {
    const std::string path = directory_->LogPath("job", number, 0);
    test::WriteFile(path, "x");
    fs::resize_file(path, static_cast<uintmax_t>(bytes));
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::seconds(age));
    return path;
  }
  size_t Files() const {
    size_t files = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(dir_.Sub("w/logs"))) ++files;
    return files;
  }

  test::TempDir dir_;
  std::unique_ptr<WorkerDirectory> directory_;
};

TEST_F(PruneLogsTest, KeepsTheNewestLogs) {
  for (int i = 0; i < 210; ++i) MakeLog(i, 1, i);
  directory_->PruneLogs([](const std::string&) { return false; });
  EXPECT_EQ(Files(), 199u);  // with the one that is about to be made, 200
  EXPECT_TRUE(fs::exists(directory_->LogPath("job", 0, 0)));
  EXPECT_FALSE(fs::exists(directory_->LogPath("job", 209, 0)));
}

TEST_F(PruneLogsTest, KeepsABoundedNumberOfBytes) {
  // 1.5 GiB in logs of two files each.
  for (int i = 0; i < 6; ++i) {
    const std::string path = MakeLog(i, 128 << 20, i);
    test::WriteFile(path + ".1", "x");
    fs::resize_file(path + ".1", 128 << 20);
    fs::last_write_time(path + ".1", fs::last_write_time(path));
  }
  directory_->PruneLogs([](const std::string&) { return false; });
  EXPECT_EQ(Files(), 8u);
  EXPECT_FALSE(fs::exists(directory_->LogPath("job", 4, 0)));
  EXPECT_FALSE(fs::exists(directory_->LogPath("job", 4, 0) + ".1"));
}

TEST_F(PruneLogsTest, LeavesThoseInUse) {
  const std::string oldest = MakeLog(500, 1, 10'000);
  for (int i = 0; i < 210; ++i) MakeLog(i, 1, i);
  directory_->PruneLogs([&oldest](const std::string& path) { return path == oldest; });
  EXPECT_TRUE(fs::exists(oldest));
  EXPECT_EQ(Files(), 200u);
}

}  // namespace
}  // namespace diffmoe
