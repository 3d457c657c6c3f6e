#include "core/storage/chunk_store.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/core/storage/faulty_disk.h"

namespace diffmoe {
namespace {

namespace fs = std::filesystem;
using test::Fault;
using test::FaultyDisk;

std::string RandomBytes(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(generator());
  return bytes;
}

// Two shards of random bytes: the first of 5.3 chunks, the second of exactly two.
struct Saved {
  CheckpointId id;
  std::vector<std::string> bytes;
  std::vector<ShardLayout> layouts;
};

class ChunkStoreTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open(ChunkStoreOptions options = {}) {
    options.file_bytes = 2 * kChunkBytes;  // several files a shard
    store_.reset();
    auto store = ChunkStore::Open(path_, options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  absl::StatusOr<std::unique_ptr<ShardWriter>> WriteShard(const CheckpointId& id, int shard,
                                                          const std::string& bytes) {
    auto writer = store_->NewShard(id, shard, static_cast<int64_t>(bytes.size()));
    if (!writer.ok()) return writer.status();
    // In pieces that don't match the chunks.
    for (size_t at = 0; at < bytes.size(); at += 700'000) {
      const absl::Status status = (*writer)->Append(std::string_view(bytes).substr(at, 700'000));
      if (!status.ok()) return status;
    }
    const absl::Status sealed = (*writer)->Seal();
    if (!sealed.ok()) return sealed;
    return writer;
  }

  Saved Save(const std::string& job, int64_t step, int64_t epoch = 1) {
    Saved saved{{job, step, epoch}, {}, {}};
    const uint32_t seed = static_cast<uint32_t>(step * 31 + epoch);
    saved.bytes = {RandomBytes(5 * kChunkBytes + 300'001, seed),
                   RandomBytes(2 * kChunkBytes, seed + 7)};
    std::vector<std::unique_ptr<ShardWriter>> writers;
    for (int shard = 0; shard < 2; ++shard) {
      auto writer = WriteShard(saved.id, shard, saved.bytes[shard]);
      EXPECT_TRUE(writer.ok()) << writer.status();
      saved.layouts.push_back((*writer)->layout());
      writers.push_back(*std::move(writer));
    }
    const absl::Status status = store_->Ingest(saved.id, std::move(writers));
    EXPECT_TRUE(status.ok()) << status;
    return saved;
  }

  absl::StatusOr<std::string> Read(const Saved& saved, int shard, int64_t offset, int64_t bytes) {
    std::string out;
    const absl::Status status = store_->NewReader(saved.id, saved.layouts[shard])
                                    ->Read(offset, bytes, [&](std::string_view piece) {
                                      EXPECT_LE(static_cast<int64_t>(piece.size()), kChunkBytes);
                                      out.append(piece);
                                      return absl::OkStatus();
                                    });
    if (!status.ok()) return status;
    return out;
  }
  void ExpectReadable(const Saved& saved) {
    for (int shard = 0; shard < 2; ++shard) {
      const auto got = Read(saved, shard, 0, saved.layouts[shard].bytes);
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_TRUE(*got == saved.bytes[shard]);
      EXPECT_TRUE(store_->CheckPresent(saved.id, saved.layouts[shard]).ok());
    }
  }
  size_t WorkFiles() const {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(path_ + "/work"))
      count += entry.is_regular_file();
    return count;
  }

  test::TempDir dir_;
  const std::string path_ = dir_.Sub("chunks");
  std::unique_ptr<ChunkStore> store_;
};

TEST_F(ChunkStoreTest, ReturnsWhatWasSavedAlsoAfterReopening) {
  const Saved saved = Save("demo", 500);
  EXPECT_EQ(saved.layouts[0].chunk_xxh3.size(), 6u);
  EXPECT_EQ(saved.layouts[1].chunk_xxh3.size(), 2u);
  EXPECT_EQ(WorkFiles(), 0u);
  ExpectReadable(saved);
  Open();
  ExpectReadable(saved);
}

// After an open RocksDB knows the number of entries of a few files only.
TEST_F(ChunkStoreTest, ManyFilesAreAllThereAfterReopening) {
  std::vector<std::pair<CheckpointId, ShardLayout>> all;
  for (int64_t step = 1; step <= 60; ++step) {
    const CheckpointId id{"demo", step, 1};
    auto writer = WriteShard(id, 0, RandomBytes(100, static_cast<uint32_t>(step)));
    ASSERT_TRUE(writer.ok()) << writer.status();
    all.emplace_back(id, (*writer)->layout());
    std::vector<std::unique_ptr<ShardWriter>> writers;
    writers.push_back(*std::move(writer));
    ASSERT_TRUE(store_->Ingest(id, std::move(writers)).ok());
  }
  Open();
  EXPECT_EQ(store_->List().size(), all.size());
  for (const auto& [id, layout] : all) {
    const absl::Status status = store_->CheckPresent(id, layout);
    EXPECT_TRUE(status.ok()) << status;
    ASSERT_TRUE(store_->Delete(id).ok());
  }
  EXPECT_TRUE(store_->List().empty());
}

TEST_F(ChunkStoreTest, OpeningLeavesNoMoreAndMoreFiles) {
  const Saved saved = Save("demo", 1);
  size_t before = 0;
  for (int life = 0; life < 6; ++life) {
    Open();
    size_t files = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(path_ + "/db")) ++files;
    if (life == 1) before = files;
    if (life > 1) {
      EXPECT_EQ(files, before);
    }
  }
  ExpectReadable(saved);
}

TEST_F(ChunkStoreTest, ReadsAnyRange) {
  const Saved saved = Save("demo", 500);
  const int64_t size = saved.layouts[0].bytes;
  for (const auto& [offset, bytes] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 1},
                                                {kChunkBytes - 1, 2},
                                                {kChunkBytes, kChunkBytes},
                                                {123, 3 * kChunkBytes},
                                                {size - 1, 1},
                                                {size, 0}}) {
    const auto got = Read(saved, 0, offset, bytes);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(*got == saved.bytes[0].substr(offset, bytes)) << offset << " " << bytes;
  }
  for (const auto& [offset, bytes] : std::vector<std::pair<int64_t, int64_t>>{
           {-1, 1}, {0, -1}, {0, size + 1}, {size, 1}, {INT64_MAX, 1}, {1, INT64_MAX}}) {
    EXPECT_TRUE(absl::IsOutOfRange(Read(saved, 0, offset, bytes).status()))
        << offset << " " << bytes;
  }
}

TEST_F(ChunkStoreTest, DeletingOneLeavesTheOthersAndFreesTheSpace) {
  const Saved first = Save("demo", 100), second = Save("demo", 200), other = Save("demo2", 100);
  const int64_t before = store_->size_bytes();
  ASSERT_TRUE(store_->Delete(first.id).ok());
  EXPECT_NEAR(static_cast<double>(store_->size_bytes()), static_cast<double>(before) * 2 / 3,
              10'000);
  const absl::Status gone = Read(first, 0, 0, 1).status();
  EXPECT_TRUE(absl::IsDataLoss(gone)) << gone;
  ExpectReadable(second);
  ExpectReadable(other);
  const std::vector<StoredCheckpoint> listed = store_->List();
  ASSERT_EQ(listed.size(), 2u);
  EXPECT_EQ(listed[0].id, second.id);
  EXPECT_EQ(listed[1].id, other.id);
  EXPECT_TRUE(store_->Delete(first.id).ok());  // again: nothing to do
}

TEST_F(ChunkStoreTest, TwoEpochsOfOneStepStandSideBySide) {
  const Saved older = Save("demo", 100, 1), newer = Save("demo", 100, 2);
  ExpectReadable(older);
  ASSERT_TRUE(store_->Delete(older.id).ok());
  ExpectReadable(newer);
  // What was deleted can be saved again.
  ExpectReadable(Save("demo", 100, 1));
}

TEST_F(ChunkStoreTest, TheSameCheckpointIsNotIngestedTwice) {
  const Saved saved = Save("demo", 100);
  std::vector<std::unique_ptr<ShardWriter>> writers;
  writers.push_back(WriteShard(saved.id, 0, "other bytes").value());
  EXPECT_TRUE(absl::IsAlreadyExists(store_->Ingest(saved.id, std::move(writers))));
  EXPECT_EQ(WorkFiles(), 0u);
  ExpectReadable(saved);
}

TEST_F(ChunkStoreTest, ADroppedWriterLeavesNoFile) {
  {
    auto writer = store_->NewShard({"demo", 1, 1}, 0, 10 * kChunkBytes).value();
    ASSERT_TRUE(writer->Append(RandomBytes(5 * kChunkBytes, 1)).ok());
    EXPECT_GT(WorkFiles(), 0u);
  }
  EXPECT_EQ(WorkFiles(), 0u);
  EXPECT_TRUE(store_->List().empty());
}

TEST_F(ChunkStoreTest, FilesThatACrashHasLeftAreSweptAtOpen) {
  store_.reset();
  test::WriteFile(fs::path(path_) / "work" / "00000042.sst", "half a table");
  Open();
  EXPECT_EQ(WorkFiles(), 0u);
}

TEST_F(ChunkStoreTest, SizesAreHeldTo) {
  auto writer = store_->NewShard({"demo", 1, 1}, 0, 10).value();
  EXPECT_TRUE(absl::IsInvalidArgument(writer->Append("eleven byte")));
  EXPECT_TRUE(writer->Append("123456789").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(writer->Seal()));
  EXPECT_TRUE(writer->Append("0").ok());
  EXPECT_TRUE(writer->Seal().ok());
  EXPECT_TRUE(store_->NewShard({"demo", 1, 1}, 0, 0).value()->Seal().ok());
}

TEST_F(ChunkStoreTest, BadNamesAreRefused) {
  for (const std::string& job :
       {std::string(), std::string("a/b"), std::string("a\0b", 3), std::string(129, 'x')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(store_->NewShard({job, 1, 1}, 0, 1).status())) << job;
    EXPECT_TRUE(absl::IsInvalidArgument(store_->Delete({job, 1, 1})));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(store_->NewShard({"a", -1, 1}, 0, 1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(store_->NewShard({"a", 1, 1}, -1, 1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(store_->NewShard({"a", 1, 1}, 0, INT64_MAX).status()));
}

TEST_F(ChunkStoreTest, ADiskWithoutRoomIsRefusedBeforeAnythingIsWritten) {
  const absl::Status status = store_->NewShard({"demo", 1, 1}, 0, int64_t{1} << 45).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST_F(ChunkStoreTest, AFlippedByteIsNamedAndHurtsNothingElse) {
  const Saved damaged = Save("demo", 100);
  const std::string file = test::FileWithExtension(path_ + "/db", ".sst");  // the last one: shard 1
  const Saved good = Save("demo", 200);
  store_.reset();
  test::FlipByte(file, 500'000);
  Open();
  const absl::Status status = Read(damaged, 1, 0, damaged.layouts[1].bytes).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(
      absl::StrContains(status.message(), "shard 1 of job demo step 100 (epoch 1): chunk 0"))
      << status;
  EXPECT_TRUE(Read(damaged, 1, kChunkBytes, kChunkBytes).ok());
  ExpectReadable(good);
}

TEST_F(ChunkStoreTest, BytesThatDoNotMatchTheManifestAreRefused) {
  Saved saved = Save("demo", 100);
  saved.layouts[0].chunk_xxh3[2] ^= 1;
  const absl::Status status = Read(saved, 0, 2 * kChunkBytes + 5, 1).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "chunk 2 doesn't match its checksum")) << status;
  saved.layouts[0].chunk_xxh3.pop_back();
  EXPECT_TRUE(absl::IsDataLoss(Read(saved, 0, 0, 1).status()));
}

TEST_F(ChunkStoreTest, AMissingOrShortFileIsFoundWithoutReadingAndHurtsNothingElse) {
  const Saved first = Save("demo", 100);
  const std::string first_file = test::FileWithExtension(path_ + "/db", ".sst");
  const Saved second = Save("demo", 200);
  const std::string second_file = test::FileWithExtension(path_ + "/db", ".sst");
  const Saved good = Save("demo", 300);
  store_.reset();
  fs::remove(first_file);
  fs::resize_file(second_file, fs::file_size(second_file) - 4096);
  Open();
  for (const Saved* saved : {&first, &second}) {
    const absl::Status status = store_->CheckPresent(saved->id, saved->layouts[1]);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "shard 1 of job demo")) << status;
    EXPECT_TRUE(store_->CheckPresent(saved->id, saved->layouts[0]).ok());
    EXPECT_TRUE(absl::IsDataLoss(Read(*saved, 1, 0, 2 * kChunkBytes).status()));
  }
  ExpectReadable(good);
  // They can still be deleted.
  EXPECT_TRUE(store_->Delete(first.id).ok());
  EXPECT_TRUE(store_->Delete(second.id).ok());
  EXPECT_EQ(store_->List().size(), 1u);
}

TEST_F(ChunkStoreTest, CheckPresentFindsAShardThatIsNotThere) {
  Saved saved = Save("demo", 100);
  saved.layouts[1].shard = 2;
  const absl::Status status = store_->CheckPresent(saved.id, saved.layouts[1]);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "shard 2")) << status;
}

TEST_F(ChunkStoreTest, WorksAgainAfterAFullDisk) {
  FaultyDisk disk;
  Open({.env = disk.env()});
  const Saved before = Save("demo", 100);
  disk.Set(Fault::kFullOnAppend);
  const auto refused = WriteShard({"demo", 200, 1}, 0, before.bytes[0]);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  disk.Set(Fault::kNone);
  std::vector<std::unique_ptr<ShardWriter>> writers;
  writers.push_back(WriteShard({"demo", 200, 1}, 0, before.bytes[0]).value());
  disk.Set(Fault::kFullOnSync);
  const absl::Status ingest = store_->Ingest({"demo", 200, 1}, std::move(writers));
  EXPECT_TRUE(absl::IsResourceExhausted(ingest)) << ingest;
  ExpectReadable(before);
  disk.Set(Fault::kNone);
  ExpectReadable(Save("demo", 200));
  EXPECT_EQ(WorkFiles(), 0u);
  Open();
  ExpectReadable(before);
  EXPECT_EQ(store_->List().size(), 2u);
}

TEST_F(ChunkStoreTest, ASecondOpenerAndAFileInPlaceOfTheDirectoryAreRefused) {
  const absl::Status held = ChunkStore::Open(path_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(held)) << held;
  EXPECT_TRUE(absl::StrContains(held.message(), "held by pid")) << held;
  test::WriteFile(dir_.Sub("file"), "x");
  EXPECT_TRUE(absl::IsPermissionDenied(ChunkStore::Open(dir_.Sub("file")).status()));
}

TEST_F(ChunkStoreTest, ALostListIsMadeAgainFromTheTables) {
  const Saved first = Save("demo", 1), second = Save("demo", 2), third = Save("other", 1);
  store_.reset();
  fs::remove(path_ + "/db/CURRENT");
  // One of the tables is unreadable: a checkpoint less, the others come back.
  std::string damaged;
  for (const auto& entry : fs::directory_iterator(path_ + "/db")) {
    if (entry.path().extension() == ".sst") damaged = std::max(damaged, entry.path().string());
  }
  fs::resize_file(damaged, fs::file_size(damaged) / 2);
  const absl::Status refused = ChunkStore::Open(path_).status();
  EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "--accept-data-loss")) << refused;
  Open({.accept_loss = true});
  ExpectReadable(first);
  ExpectReadable(second);
  EXPECT_TRUE(absl::IsDataLoss(store_->CheckPresent(third.id, third.layouts[1])));
  EXPECT_TRUE(fs::exists(path_ + "/repair-failed/" + fs::path(damaged).filename().string()));
  Open();  // nothing is left to repair
  ExpectReadable(second);
  ASSERT_TRUE(store_->Delete(second.id).ok());
  ExpectReadable(Save("demo", 3));
}

// A list that has lost its end: what it doesn't name is not thrown away.
TEST_F(ChunkStoreTest, TablesThatNobodyListsAreSetAside) {
  const Saved first = Save("demo", 1);
  Open();
  std::string manifest;
  for (const auto& entry : fs::directory_iterator(path_ + "/db")) {
    if (absl::StartsWith(entry.path().filename().string(), "MANIFEST")) manifest = entry.path();
  }
  const std::string before = test::ReadFile(manifest);
  const Saved second = Save("demo", 2);
  store_.reset();
  test::WriteFile(manifest, before);
  Open();
  ExpectReadable(first);
  EXPECT_TRUE(absl::IsDataLoss(store_->CheckPresent(second.id, second.layouts[0])));
  Open({.accept_loss = true});
  ExpectReadable(first);
  ExpectReadable(second);
  // Without a missing checkpoint they are what a deletion has left.
  ASSERT_TRUE(store_->ForgetUnlisted().ok());
  EXPECT_FALSE(fs::exists(path_ + "/unlisted"));
}

TEST_F(ChunkStoreTest, ALostDatabaseWithFilesIsRefused) {
  Save("demo", 100);
  store_.reset();
  fs::remove(path_ + "/db/CURRENT");
  const absl::Status status = ChunkStore::Open(path_).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "CURRENT")) << status;
}

}  // namespace
}  // namespace diffmoe
