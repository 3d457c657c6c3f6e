// Cost of the stores, beside the raw disk in the same run: a synced commit against one fdatasync, a
// checkpoint against write + fdatasync of the same bytes. Compare ratios; the seconds belong to the
// machine.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/storage/chunk_store.h"
#include "core/storage/record_store.h"
#include "tests/support/temp_dir.h"

namespace diffmoe {
namespace {

constexpr size_t kRecordBytes = 200;
constexpr int64_t kShardBytes = int64_t{32} << 20;
constexpr int kShards = 2;

std::string RandomBytes(size_t count) {
  std::mt19937_64 generator(1);
  std::string bytes(count, '\0');
  for (size_t i = 0; i + 8 <= count; i += 8) {
    const uint64_t word = generator();
    for (size_t j = 0; j < 8; ++j) bytes[i + j] = static_cast<char>(word >> (8 * j));
  }
  return bytes;
}

void RawAppendAndSync(benchmark::State& state) {
  test::TempDir dir;
  const int fd = open(dir.Sub("file").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  const std::string record(kRecordBytes, 'r');
  for (auto _ : state) {
    if (write(fd, record.data(), record.size()) != static_cast<ssize_t>(record.size()) ||
        fdatasync(fd) != 0) {
      state.SkipWithError("write failed");
      break;
    }
  }
  close(fd);
}
BENCHMARK(RawAppendAndSync)->Unit(benchmark::kMicrosecond)->UseRealTime();

// One synced commit of so many records.
void CommitRecords(benchmark::State& state) {
  test::TempDir dir;
  auto store = RecordStore::Open(dir.path());
  if (!store.ok()) return state.SkipWithError(store.status().ToString().c_str());
  int64_t next = 0;
  for (auto _ : state) {
    std::vector<RecordWrite> writes;
    for (int64_t i = 0; i < state.range(0); ++i) {
      writes.push_back({absl::StrCat("record/", next++), std::string(kRecordBytes, 'r')});
    }
    const absl::Status status = (*store)->Commit(writes);
    if (!status.ok()) return state.SkipWithError(status.ToString().c_str());
  }
  state.SetItemsProcessed(next);
}
BENCHMARK(CommitRecords)->Arg(1)->Arg(8)->Arg(64)->Unit(benchmark::kMicrosecond)->UseRealTime();

void RawWriteAndSync(benchmark::State& state) {
  test::TempDir dir;
  const std::string bytes = RandomBytes(kShardBytes);
  for (auto _ : state) {
    for (int shard = 0; shard < kShards; ++shard) {
      const int fd =
          open(dir.Sub(absl::StrCat("file", shard)).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      if (write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
          fdatasync(fd) != 0) {
        state.SkipWithError("write failed");
      }
      close(fd);
    }
  }
  state.SetBytesProcessed(state.iterations() * kShards * kShardBytes);
}
BENCHMARK(RawWriteAndSync)->Unit(benchmark::kMillisecond)->UseRealTime();

absl::StatusOr<std::vector<ShardLayout>> Save(ChunkStore& store, const CheckpointId& id,
                                              const std::string& bytes) {
  std::vector<std::unique_ptr<ShardWriter>> shards;
  std::vector<ShardLayout> layouts;
  for (int shard = 0; shard < kShards; ++shard) {
    auto writer = store.NewShard(id, shard, static_cast<int64_t>(bytes.size()));
    if (!writer.ok()) return writer.status();
    for (int64_t at = 0; at < kShardBytes; at += kChunkBytes) {
      const absl::Status written =
          (*writer)->Append(std::string_view(bytes).substr(at, kChunkBytes));
      if (!written.ok()) return written;
    }
    const absl::Status sealed = (*writer)->Seal();
    if (!sealed.ok()) return sealed;
    layouts.push_back((*writer)->layout());
    shards.push_back(*std::move(writer));
  }
  const absl::Status ingested = store.Ingest(id, std::move(shards));
  if (!ingested.ok()) return ingested;
  return layouts;
}

// Saves a checkpoint and removes the one before it.
void SaveCheckpoint(benchmark::State& state) {
  test::TempDir dir;
  auto store = ChunkStore::Open(dir.path());
  if (!store.ok()) return state.SkipWithError(store.status().ToString().c_str());
  const std::string bytes = RandomBytes(kShardBytes);
  int64_t step = 0;
  for (auto _ : state) {
    const auto saved = Save(**store, {"bench", ++step, 1}, bytes);
    if (!saved.ok()) return state.SkipWithError(saved.status().ToString().c_str());
    const absl::Status deleted = (*store)->Delete({"bench", step - 1, 1});
    if (!deleted.ok()) return state.SkipWithError(deleted.ToString().c_str());
  }
  state.SetBytesProcessed(state.iterations() * kShards * kShardBytes);
}
BENCHMARK(SaveCheckpoint)->Unit(benchmark::kMillisecond)->UseRealTime();

// Reads it back, every chunk verified twice (table block and manifest).
void ReadCheckpoint(benchmark::State& state) {
  test::TempDir dir;
  auto store = ChunkStore::Open(dir.path());
  if (!store.ok()) return state.SkipWithError(store.status().ToString().c_str());
  const CheckpointId id{"bench", 1, 1};
  const auto saved = Save(**store, id, RandomBytes(kShardBytes));
  if (!saved.ok()) return state.SkipWithError(saved.status().ToString().c_str());
  for (auto _ : state) {
    for (const ShardLayout& layout : *saved) {
      const absl::Status read =
          (*store)->NewReader(id, layout)->Read(0, layout.bytes, [](std::string_view piece) {
            benchmark::DoNotOptimize(piece.data());
            return absl::OkStatus();
          });
      if (!read.ok()) return state.SkipWithError(read.ToString().c_str());
    }
  }
  state.SetBytesProcessed(state.iterations() * kShards * kShardBytes);
}
BENCHMARK(ReadCheckpoint)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace diffmoe

BENCHMARK_MAIN();
