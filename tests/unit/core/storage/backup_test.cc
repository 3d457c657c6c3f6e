// Copies of both stores while they are written to, and Verify over what lies on the disk.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/storage/chunk_store.h"
#include "core/storage/record_store.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/core/storage/faulty_disk.h"

namespace diffmoe {
namespace {

namespace fs = std::filesystem;

absl::Status Put(RecordStore& store, int64_t number) {
  const std::vector<RecordWrite> writes{{absl::StrCat("job/", number), std::string(500, 'x')},
                                        {"count", absl::StrCat(number)}};
  return store.Commit(writes);
}

dev_t DeviceOf(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? info.st_dev : 0;
}

class BackupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    records_ = RecordStore::Open(dir_.Sub("records")).value();
    chunks_ = ChunkStore::Open(dir_.Sub("chunks"), {.file_bytes = kChunkBytes}).value();
  }

  ShardLayout Save(const CheckpointId& id) {
    const std::string bytes(3 * kChunkBytes + 17, static_cast<char>(id.step));
    auto writer = chunks_->NewShard(id, 0, static_cast<int64_t>(bytes.size())).value();
    EXPECT_TRUE(writer->Append(bytes).ok());
    EXPECT_TRUE(writer->Seal().ok());
    const ShardLayout layout = writer->layout();
    std::vector<std::unique_ptr<ShardWriter>> writers;
    writers.push_back(std::move(writer));
    const absl::Status status = chunks_->Ingest(id, std::move(writers));
    EXPECT_TRUE(status.ok()) << status;
    return layout;
  }

  test::TempDir dir_;
  std::unique_ptr<RecordStore> records_;
  std::unique_ptr<ChunkStore> chunks_;
};

TEST_F(BackupTest, ACopyOfRecordsHoldsOneMomentWhileCommitsGoOn) {
  std::atomic<bool> stop{false};
  std::atomic<int64_t> acknowledged{0};
  std::thread writer([&] {
    for (int64_t number = 1; !stop; ++number) {
      ASSERT_TRUE(Put(*records_, number).ok());
      acknowledged = number;
    }
  });
  for (int copy = 0; copy < 5; ++copy) {
    const int64_t before = acknowledged;
    const std::string path = dir_.Sub(absl::StrCat("copy", copy));
    const absl::StatusOr<int64_t> commit = records_->BackUp(path);
    ASSERT_TRUE(commit.ok()) << commit.status();
    EXPECT_GE(*commit, before);
    auto restored = RecordStore::Open(path);
    ASSERT_TRUE(restored.ok()) << restored.status();
    EXPECT_EQ((*restored)->sequence(), *commit);
    if (*commit > 0) {
      EXPECT_EQ((*restored)->Get("count").value(), absl::StrCat(*commit));
    }
    const absl::Status verified = (*restored)->Verify();
    EXPECT_TRUE(verified.ok()) << verified;
    // The live store, too, between two commits.
    const absl::Status live = records_->Verify();
    EXPECT_TRUE(live.ok()) << live;
  }
  stop = true;
  writer.join();
}

TEST_F(BackupTest, ACopyGoesItsOwnWay) {
  ASSERT_TRUE(Put(*records_, 1).ok());
  const CheckpointId kept{"demo", 1, 1}, later{"demo", 2, 1};
  const ShardLayout layout = Save(kept);
  ASSERT_TRUE(records_->BackUp(dir_.Sub("r")).ok());
  const absl::Status copied = chunks_->BackUp(dir_.Sub("c"));
  ASSERT_TRUE(copied.ok()) << copied;
  Save(later);
  ASSERT_TRUE(chunks_->Delete(kept).ok());
  ASSERT_TRUE(Put(*records_, 2).ok());
  auto records = RecordStore::Open(dir_.Sub("r")).value();
  ASSERT_TRUE(Put(*records, 3).ok());
  EXPECT_EQ(records_->Get("count").value(), "2");
  EXPECT_EQ(records->Get("count").value(), "3");
  auto chunks = ChunkStore::Open(dir_.Sub("c")).value();
  ASSERT_EQ(chunks->List().size(), 1);
  int64_t bytes = 0;
  const absl::Status verified = chunks->Verify(kept, layout, [&](int64_t more) { bytes += more; });
  EXPECT_TRUE(verified.ok()) << verified;
  EXPECT_EQ(bytes, layout.bytes);
}

TEST_F(BackupTest, AnotherFileSystemGetsCopiesInsteadOfLinks) {
  const std::string other = absl::StrCat("/dev/shm/diffmoe-backup-test-", getpid());
  std::error_code error;
  if (!fs::create_directory(other, error) || DeviceOf(other) == DeviceOf(dir_.path())) {
    fs::remove_all(other, error);
    GTEST_SKIP() << "/dev/shm isn't another file system than the temporary folder's";
  }
  ASSERT_TRUE(Put(*records_, 1).ok());
  const CheckpointId id{"demo", 1, 1};
  const ShardLayout layout = Save(id);
  EXPECT_TRUE(records_->BackUp(other + "/records").ok());
  const absl::Status copied = chunks_->BackUp(other + "/chunks");
  EXPECT_TRUE(copied.ok()) << copied;
  {
    auto records = RecordStore::Open(other + "/records");
    ASSERT_TRUE(records.ok()) << records.status();
    EXPECT_EQ((*records)->Get("count").value(), "1");
    auto chunks = ChunkStore::Open(other + "/chunks");
    ASSERT_TRUE(chunks.ok()) << chunks.status();
    EXPECT_TRUE((*chunks)->Verify(id, layout, [](int64_t) {}).ok());
  }
  fs::remove_all(other);
}

TEST_F(BackupTest, AnExistingDirectoryIsLeftAlone) {
  fs::create_directories(dir_.Sub("r/db"));
  test::WriteFile(dir_.Sub("r/db/mine"), "x");
  EXPECT_FALSE(records_->BackUp(dir_.Sub("r")).ok());
  EXPECT_EQ(test::ReadFile(dir_.Sub("r/db/mine")), "x");
}

TEST_F(BackupTest, VerifyOfALiveStoreSeesDamageOnTheDisk) {
  ASSERT_TRUE(Put(*records_, 1).ok());
  ASSERT_TRUE(Put(*records_, 2).ok());
  EXPECT_TRUE(records_->Verify().ok());
  const std::string log = test::FileWithExtension(dir_.Sub("records/db"), ".log");
  test::FlipByte(log, 30);
  absl::Status status = records_->Verify();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  test::FlipByte(log, 30);
  EXPECT_TRUE(records_->Verify().ok());
  test::FlipByte(dir_.Sub("records/mark"), 20);
  test::FlipByte(dir_.Sub("records/mark"), 4096 + 20);
  status = records_->Verify();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "/mark")) << status;
}

TEST_F(BackupTest, VerifyOfAShardReadsTheFilesAnew) {
  const CheckpointId id{"demo", 1, 1}, other{"demo", 2, 1};
  const ShardLayout layout = Save(id);
  const auto verify = [&] { return chunks_->Verify(id, layout, [](int64_t) {}); };
  EXPECT_TRUE(verify().ok());
  // In the bytes of a chunk, and in the footer, which reads through the open file never look at
  // again.
  const std::string file = test::FileWithExtension(dir_.Sub("chunks/db"), ".sst");
  const ShardLayout untouched = Save(other);
  for (const int64_t offset : {int64_t{100}, static_cast<int64_t>(fs::file_size(file)) - 52}) {
    test::FlipByte(file, offset);
    const absl::Status status = verify();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "shard 0 of job demo step 1")) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), file)) << status;
    test::FlipByte(file, offset);
  }
  EXPECT_TRUE(verify().ok());
  fs::remove(file);
  EXPECT_TRUE(absl::IsDataLoss(verify()));
  EXPECT_TRUE(chunks_->Verify(other, untouched, [](int64_t) {}).ok());
}

TEST_F(BackupTest, ATableWithoutAFooterIsDamagedAndNoCrash) {
  const CheckpointId id{"demo", 1, 1};
  const ShardLayout layout = Save(id);
  const std::string file = test::FileWithExtension(dir_.Sub("chunks/db"), ".sst");
  const std::string bytes = test::ReadFile(file);
  for (size_t zeros = 13; zeros < 1000; zeros += 7) {
    std::string damaged = bytes;
    // All but the magic number at the end.
    const size_t at = bytes.size() - zeros;
    damaged.replace(at, zeros - 12, zeros - 12, '\0');
    test::WriteFile(file, damaged);
    const absl::Status status = chunks_->Verify(id, layout, [](int64_t) {});
    if (damaged != bytes) {
      EXPECT_TRUE(absl::IsDataLoss(status) || zeros < 53) << zeros << " zeros: " << status;
    }
  }
  test::WriteFile(file, bytes);
  EXPECT_TRUE(chunks_->Verify(id, layout, [](int64_t) {}).ok());
}

// What Verify calls good can be read after a restart, wherever in a file a bit has flipped.
TEST_F(BackupTest, VerifyMissesNothingThatAnOpeningMeets) {
  const CheckpointId id{"demo", 1, 1};
  const std::string bytes(500, 'x');
  auto writer = chunks_->NewShard(id, 0, 500).value();
  ASSERT_TRUE(writer->Append(bytes).ok());
  ASSERT_TRUE(writer->Seal().ok());
  const ShardLayout layout = writer->layout();
  std::vector<std::unique_ptr<ShardWriter>> writers;
  writers.push_back(std::move(writer));
  ASSERT_TRUE(chunks_->Ingest(id, std::move(writers)).ok());
  chunks_.reset();
  const std::string file = test::FileWithExtension(dir_.Sub("chunks/db"), ".sst");
  const int64_t size = static_cast<int64_t>(fs::file_size(file));
  int found = 0;
  for (int64_t offset = 0; offset < size; offset += 5) {
    test::FlipByte(file, offset);
    const auto chunks = ChunkStore::Open(dir_.Sub("chunks"));
    ASSERT_TRUE(chunks.ok()) << chunks.status();
    const absl::Status verified = (*chunks)->Verify(id, layout, [](int64_t) {});
    const absl::Status read =
        (*chunks)->NewReader(id, layout)->Read(0, layout.bytes, [&bytes](std::string_view piece) {
          EXPECT_TRUE(piece == bytes);
          return absl::OkStatus();
        });
    if (verified.ok()) {
      EXPECT_TRUE(read.ok()) << "byte " << offset << " of " << size << ": " << read;
    }
    found += !verified.ok();
    test::FlipByte(file, offset);
  }
  EXPECT_GT(found, size / 10);
}

}  // namespace
}  // namespace diffmoe
