#include "core/storage/commit_chain.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::storage {
namespace {

class CommitChainTest : public ::testing::Test {
 protected:
  void SetUp() override {
    rocksdb::Options options;
    options.create_if_missing = true;
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(options, dir_.Sub("db"), &db).ok());
    db_.reset(db);
  }

  // Writes commits up to `last`, without the link of `skipped`.
  void Write(int64_t last, int64_t skipped = -1) {
    CommitPoint point;
    while (point.sequence < last) {
      point = NextCommit(point, std::vector<RecordWrite>{{"key", std::to_string(point.sequence)}});
      rocksdb::WriteBatch batch;
      ASSERT_TRUE(AddLink(point, batch).ok());
      if (point.sequence == skipped) continue;
      ASSERT_TRUE(db_->Write(rocksdb::WriteOptions(), &batch).ok());
    }
    newest_ = point;
  }

  test::TempDir dir_;
  std::unique_ptr<rocksdb::DB> db_;
  CommitPoint newest_;
};

TEST_F(CommitChainTest, AnEmptyChainHasNoHead) {
  EXPECT_EQ(ReadHead(*db_).value(), CommitPoint{});
  EXPECT_TRUE(CheckLinks(*db_, CommitPoint{}).ok());
}

TEST_F(CommitChainTest, KeepsTheNewestLinksOnly) {
  Write(kChainLength + 300);
  EXPECT_EQ(ReadHead(*db_).value(), newest_);
  EXPECT_TRUE(CheckLinks(*db_, newest_).ok());
  EXPECT_TRUE(ReadLink(*db_, 301).ok());
  EXPECT_TRUE(absl::IsNotFound(ReadLink(*db_, 300).status()));
}

TEST_F(CommitChainTest, AGapIsNamed) {
  Write(kChainLength + 300, /*skipped=*/700);
  const absl::Status status = CheckLinks(*db_, newest_);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "commits 700 to 700 of 1324 are missing"))
      << status;
}

TEST_F(CommitChainTest, LinksBeforeTheBaseAreNotAskedFor) {
  Write(40, /*skipped=*/20);
  EXPECT_FALSE(CheckLinks(*db_, newest_).ok());
  rocksdb::WriteBatch batch;
  ASSERT_TRUE(AddBase(newest_, batch).ok());
  ASSERT_TRUE(db_->Write(rocksdb::WriteOptions(), &batch).ok());
  EXPECT_TRUE(CheckLinks(*db_, newest_).ok());
}

TEST_F(CommitChainTest, TheHashCoversHistoryAndContents) {
  const std::vector<RecordWrite> set{{"a", "b"}}, other{{"a", "c"}}, split{{"ab", ""}},
      erase{{"a", std::nullopt}};
  const CommitPoint start;
  EXPECT_EQ(NextCommit(start, set), NextCommit(start, set));
  for (const auto& writes : {other, split, erase})
    EXPECT_NE(NextCommit(start, set), NextCommit(start, writes));
  EXPECT_NE(NextCommit(NextCommit(start, set), set).hash,
            NextCommit(NextCommit(start, other), set).hash);
}

}  // namespace
}  // namespace diffmoe::storage
