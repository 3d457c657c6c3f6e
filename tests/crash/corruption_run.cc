#include "tests/crash/corruption_run.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::test {
namespace {

namespace fs = std::filesystem;

constexpr int kCommitsPerLife = 120;
constexpr int kLives = 3;
// Where the index and the footer of a table lie.
constexpr int64_t kTailBytes = 4096;

std::string RandomBytes(std::mt19937_64& random, int64_t count) {
  std::string bytes(static_cast<size_t>(count), '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// A copy of a store. Tables are linked: they are never changed in place.
void CopyStore(const std::string& from, const std::string& to) {
  fs::remove_all(to);
  for (const auto& entry : fs::recursive_directory_iterator(from)) {
    const fs::path target = fs::path(to) / fs::relative(entry.path(), from);
    if (entry.is_directory()) {
      fs::create_directories(target);
    } else {
      fs::create_directories(target.parent_path());
      if (entry.path().extension() == ".sst") {
        fs::create_hard_link(entry.path(), target);
      } else {
        fs::copy_file(entry.path(), target);
      }
    }
  }
}

// Contents of the small files and sizes of the tables, without the lock.
std::map<std::string, std::string> Fingerprint(const std::string& store) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(store)) {
    if (!entry.is_regular_file() || entry.path() == store + "/lock") continue;
    files[entry.path()] = entry.path().extension() == ".sst" ? absl::StrCat(entry.file_size())
                                                             : ReadFile(entry.path());
  }
  return files;
}

std::string KindOf(const std::string& file) {
  const std::string name = fs::path(file).filename();
  if (!fs::path(file).extension().empty()) return "*" + fs::path(file).extension().string();
  return name.substr(0, name.find('-'));
}

// Changes `bytes` in a random way; says how.
std::string Change(std::mt19937_64& random, bool table, std::string* bytes) {
  const auto below = [&random](size_t limit) { return static_cast<size_t>(random() % limit); };
  const size_t size = bytes->size();
  const size_t tail = std::min(size, static_cast<size_t>(kTailBytes));
  const size_t at = table && below(2) == 0 ? size - 1 - below(tail) : below(size);
  switch (below(10)) {
    case 0:
    case 1: {
      bytes->resize(at);
      return absl::StrCat("cut to ", at, " of ", size, " bytes");
    }
    case 2: {
      const size_t count = std::min(size - at, 1 + below(4096));
      bytes->replace(at, count, count, '\0');
      return absl::StrCat("zeroed ", count, " bytes at ", at);
    }
    case 3: {
      const size_t count = 1 + below(100);
      bytes->append(RandomBytes(random, static_cast<int64_t>(count)));
      return absl::StrCat(count, " bytes appended to ", size);
    }
    case 4: {
      const size_t count = std::min(size - at, 1 + below(64));
      bytes->replace(at, count, RandomBytes(random, static_cast<int64_t>(count)));
      return absl::StrCat(count, " random bytes at ", at);
    }
    default: {
      const int bit = static_cast<int>(below(8));
      (*bytes)[at] = static_cast<char>((*bytes)[at] ^ (1 << bit));
      return absl::StrCat("flipped bit ", bit, " of byte ", at, " of ", size);
    }
  }
}

}  // namespace

CorruptionRun::CorruptionRun(std::string dir, uint64_t seed) : dir_(std::move(dir)), random_(seed) {
  WriteRecords();
  WriteChunks();
}

void CorruptionRun::WriteRecords() {
  for (int life = 0; life < kLives; ++life) {  // each opening makes a table of the log before
    auto store = RecordStore::Open(dir_ + "/records");
    if (!store.ok()) std::abort();
    for (int i = 0; i < kCommitsPerLife; ++i) {
      std::vector<RecordWrite> writes;
      const std::string key = absl::StrCat("jobs/", Random(200));
      records_[key] = RandomBytes(random_, 20 + Random(200));
      writes.push_back({key, records_[key]});
      if (Random(4) == 0) {
        const std::string gone = absl::StrCat("jobs/", Random(200));
        if (gone != key) {
          writes.push_back({gone, std::nullopt});
          records_.erase(gone);
        }
      }
      if (!(*store)->Commit(writes).ok()) std::abort();
    }
    commits_ = (*store)->sequence();
  }
  for (int number = 0; number < 200; ++number) {
    const std::string key = absl::StrCat("jobs/", number);
    if (!records_.contains(key)) deleted_.push_back(key);
  }
}

CorruptionRun::Checkpoint CorruptionRun::WriteCheckpoint(ChunkStore& store, const CheckpointId& id,
                                                         int64_t bytes) {
  Checkpoint checkpoint{id, {}, {}};
  std::vector<std::unique_ptr<ShardWriter>> writers;
  for (int shard = 0; shard < 2; ++shard) {
    checkpoint.bytes.push_back(RandomBytes(random_, bytes));
    auto writer = store.NewShard(id, shard, bytes);
    if (!writer.ok() || !(*writer)->Append(checkpoint.bytes.back()).ok() || !(*writer)->Seal().ok())
      std::abort();
    checkpoint.layouts.push_back((*writer)->layout());
    writers.push_back(*std::move(writer));
  }
  if (!store.Ingest(id, std::move(writers)).ok()) std::abort();
  return checkpoint;
}

void CorruptionRun::WriteChunks() {
  for (int life = 0; life < 2; ++life) {
    auto store = ChunkStore::Open(dir_ + "/chunks", {.file_bytes = kChunkBytes});
    if (!store.ok()) std::abort();
    const CheckpointId gone{"demo", 1 + life, 1};
    WriteCheckpoint(**store, gone, 5000);
    checkpoints_.push_back(WriteCheckpoint(**store, {"demo", 10 + life, 1}, 5000));
    checkpoints_.push_back(WriteCheckpoint(**store, {"demo", 20 + life, 1}, 2 * kChunkBytes + 999));
    if (!(*store)->Delete(gone).ok()) std::abort();
  }
}

absl::Status CorruptionRun::Run(int cases) {
  for (int i = 0; i < cases; ++i) {
    RETURN_IF_ERROR(RunCase(/*records=*/i % 2 == 0));
    ++summary_.cases;
  }
  return absl::OkStatus();
}

absl::Status CorruptionRun::RunCase(bool records) {
  const std::string name = records ? "records" : "chunks";
  const std::string store = absl::StrCat(dir_, "/case/", name);
  CopyStore(absl::StrCat(dir_, "/", name), store);
  const Damage damage = Harm(store);
  const absl::StatusOr<DamageOutcome> outcome =
      records ? JudgeRecords(store, damage) : JudgeChunks(store, damage);
  if (!outcome.ok()) {
    return absl::InternalError(absl::StrCat("case ", summary_.cases + 1, ", ", name, "/",
                                            damage.file, " ", damage.what, ": ",
                                            outcome.status().message()));
  }
  std::vector<int>& counts = summary_.outcomes[absl::StrCat(name, " ", KindOf(damage.file))];
  counts.resize(3);
  ++counts[static_cast<size_t>(*outcome)];
  return absl::OkStatus();
}

CorruptionRun::Damage CorruptionRun::Harm(const std::string& store) {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(store)) {
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), store));
  }
  std::sort(files.begin(), files.end());
  const std::string file = files[static_cast<size_t>(Random(static_cast<int64_t>(files.size())))];
  const std::string path = absl::StrCat(store, "/", file);
  std::string bytes = ReadFile(path);
  fs::remove(path);  // before it is written anew: the other end of a link stays whole
  if (bytes.empty() || Random(10) == 0) return {file, "deleted"};
  const std::string what = Change(random_, absl::EndsWith(file, ".sst"), &bytes);
  WriteFile(path, bytes);
  return {file, what};
}

absl::Status CorruptionRun::CheckRecords(const RecordStore& store, bool* damaged) const {
  for (const auto& [key, value] : records_) {
    const absl::StatusOr<std::string> got = store.Get(key);
    if (absl::IsDataLoss(got.status())) {
      if (!absl::StrContains(got.status().message(), ".sst")) {
        return absl::InternalError(absl::StrCat("damage without a file: ", got.status().message()));
      }
      *damaged = true;
    } else if (!got.ok() || *got != value) {
      return absl::InternalError(absl::StrCat("silent loss of ", key, ": ",
                                              got.ok() ? "other bytes" : got.status().message()));
    }
  }
  for (const std::string& key : deleted_) {
    const absl::Status status = store.Get(key).status();
    if (status.ok())
      return absl::InternalError(absl::StrCat(key, " had been deleted, and is back"));
    *damaged = *damaged || !absl::IsNotFound(status);
  }
  size_t scanned = 0;
  const absl::Status status = store.Scan("jobs/", [&](std::string_view, std::string_view) {
    ++scanned;
    return true;
  });
  // It meets also what no key needs: deletions, and values that a newer table replaces.
  const bool named = absl::IsDataLoss(status) && absl::StrContains(status.message(), ".sst");
  if (status.ok() ? scanned != records_.size() : !named) {
    return absl::InternalError(absl::StrCat("a scan gave ", scanned, " of ", records_.size(),
                                            " records: ", status.message()));
  }
  *damaged = *damaged || named;
  return absl::OkStatus();
}

absl::StatusOr<DamageOutcome> CorruptionRun::JudgeRecords(const std::string& store,
                                                          const Damage& damage) {
  const auto before = Fingerprint(store);
  {
    const auto opened = RecordStore::Open(store);
    if (opened.ok()) {
      bool damaged = false;
      RETURN_IF_ERROR(CheckRecords(**opened, &damaged));
      const absl::Status verified = (*opened)->Verify();
      if (damaged && verified.ok())
        return absl::InternalError("reads found damage that Verify did not find");
      if (!verified.ok() && !absl::StrContains(verified.message(), ".sst"))
        return absl::InternalError(absl::StrCat("not named: ", verified.message()));
      return verified.ok() ? DamageOutcome::kHarmless : DamageOutcome::kNamed;
    }
    const absl::Status& status = opened.status();
    const std::string name = fs::path(damage.file).filename();
    const bool named = absl::StrContains(status.message(), name) ||
                       absl::StrContains(status.message(), absl::StrCat(" to ", commits_));
    if (!absl::IsDataLoss(status) || !named || !absl::StrContains(status.message(), store) ||
        !absl::StrContains(status.message(), "--accept-data-loss")) {
      return absl::InternalError(
          absl::StrCat("refused without a name, a loss or a repair: ", status.ToString()));
    }
  }
  if (Fingerprint(store) != before) return absl::InternalError("refused, but changed on disk");
  return DamageOutcome::kRefused;
}

absl::StatusOr<bool> CorruptionRun::CheckCheckpoint(const ChunkStore& store,
                                                    const Checkpoint& checkpoint,
                                                    const Damage& damage) const {
  bool whole = true;
  for (size_t shard = 0; shard < checkpoint.layouts.size(); ++shard) {
    const ShardLayout& layout = checkpoint.layouts[shard];
    const absl::Status verified = store.Verify(checkpoint.id, layout, [](int64_t) {});
    std::string read;
    const absl::Status status = store.NewReader(checkpoint.id, layout)
                                    ->Read(0, layout.bytes, [&read](std::string_view piece) {
                                      read.append(piece);
                                      return absl::OkStatus();
                                    });
    if (status.ok() && read != checkpoint.bytes[shard])
      return absl::InternalError("silent loss: other bytes than were written");
    if (verified.ok() && !status.ok())
      return absl::InternalError(absl::StrCat("Verify missed it: ", status.message()));
    if (verified.ok()) continue;
    whole = false;
    const std::string shard_name = absl::StrCat("shard ", shard, " of ", ToString(checkpoint.id));
    const bool named = absl::IsDataLoss(verified) &&
                       absl::StrContains(verified.message(), shard_name) &&
                       (absl::StrContains(verified.message(), ".sst") ||
                        absl::StrContains(verified.message(), "chunk "));
    if (!named)
      return absl::InternalError(absl::StrCat(damage.file, " not named: ", verified.ToString()));
  }
  return whole;
}

absl::StatusOr<DamageOutcome> CorruptionRun::JudgeChunks(const std::string& store,
                                                         const Damage& damage) {
  auto opened = ChunkStore::Open(store, {.file_bytes = kChunkBytes});
  if (!opened.ok()) {
    if (absl::EndsWith(damage.file, ".sst"))
      return absl::InternalError(
          absl::StrCat("one table keeps all from being read: ", opened.status().message()));
    if (!absl::IsDataLoss(opened.status()) || !absl::StrContains(opened.status().message(), store))
      return absl::InternalError(absl::StrCat("not named: ", opened.status().ToString()));
    RETURN_IF_ERROR(RepairChunks(store));
    return DamageOutcome::kRefused;
  }
  int damaged = 0;
  for (const Checkpoint& checkpoint : checkpoints_) {
    ASSIGN_OR_RETURN(const bool whole, CheckCheckpoint(**opened, checkpoint, damage));
    damaged += !whole;
  }
  if (absl::EndsWith(damage.file, ".sst") && damaged > 1)
    return absl::InternalError(absl::StrCat("one table, ", damaged, " damaged checkpoints"));
  if (damaged == 0) return DamageOutcome::kHarmless;
  opened->reset();
  if (!absl::EndsWith(damage.file, ".sst")) RETURN_IF_ERROR(RepairChunks(store));
  return DamageOutcome::kNamed;
}

// The tables are undamaged, so a repair brings everything back.
absl::Status CorruptionRun::RepairChunks(const std::string& store) {
  const auto opened = ChunkStore::Open(store, {.file_bytes = kChunkBytes, .accept_loss = true});
  if (!opened.ok())
    return absl::InternalError(absl::StrCat("not repaired: ", opened.status().message()));
  for (const Checkpoint& checkpoint : checkpoints_) {
    ASSIGN_OR_RETURN(const bool whole, CheckCheckpoint(**opened, checkpoint, {"repaired", ""}));
    if (!whole)
      return absl::InternalError(absl::StrCat(ToString(checkpoint.id), " is lost by a repair"));
  }
  return absl::OkStatus();
}

}  // namespace diffmoe::test
