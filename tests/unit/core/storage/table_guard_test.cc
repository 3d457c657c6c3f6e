#include "core/storage/table_guard.h"

#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"
#include "rocksdb/options.h"
#include "rocksdb/sst_file_writer.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::storage {
namespace {

class TableGuardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), rocksdb::Options{});
    ASSERT_TRUE(writer.Open(path_).ok());
    for (int i = 100; i < 130; ++i) ASSERT_TRUE(writer.Put(std::to_string(i), "value").ok());
    ASSERT_TRUE(writer.Finish().ok());
    std::ifstream file(path_, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    healthy_ = text.str();
  }

  void Write(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }

  test::TempDir dir_;
  const std::string path_ = dir_.Sub("000012.sst");
  std::string healthy_;
};

TEST_F(TableGuardTest, HealthyTablesPass) {
  EXPECT_TRUE(UnopenableTables(dir_.path()).empty());
  EXPECT_TRUE(CheckTablesOpenable(dir_.path()).ok());
  EXPECT_TRUE(UnopenableTables(dir_.Sub("nothing")).empty());
}

TEST_F(TableGuardTest, FindsTheOneBitAndNothingElse) {
  int found = 0;
  for (size_t i = 0; i < healthy_.size(); ++i) {
    std::string damaged = healthy_;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x80);
    Write(damaged);
    found += UnopenableTables(dir_.path()).empty() ? 0 : 1;
  }
  EXPECT_EQ(found, 1);
}

TEST_F(TableGuardTest, NamesAndMovesTheTable) {
  for (size_t i = 0; i < healthy_.size(); ++i) {
    std::string damaged = healthy_;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x80);
    Write(damaged);
    const absl::Status status = CheckTablesOpenable(dir_.path());
    if (status.ok()) continue;
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(status.message().find("000012.sst"), std::string::npos) << status;
    ASSERT_TRUE(SetUnopenableAside(dir_.path(), dir_.Sub("damaged")).ok());
    EXPECT_TRUE(CheckTablesOpenable(dir_.path()).ok());
    EXPECT_TRUE(std::ifstream(dir_.Sub("damaged/000012.sst")).good());
    return;
  }
  FAIL() << "no bit was found";
}

TEST_F(TableGuardTest, CutFilesAreLeftToRocksDb) {
  for (size_t bytes = 0; bytes < healthy_.size(); ++bytes) {
    Write(healthy_.substr(0, bytes));
    EXPECT_TRUE(CheckTablesOpenable(dir_.path()).ok()) << bytes;
  }
}

}  // namespace
}  // namespace diffmoe::storage
