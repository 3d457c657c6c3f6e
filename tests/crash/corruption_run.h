// Damage to the files of both stores, one at a time: every case must be refused or named, or be
// proven harmless by reading back everything that was acknowledged.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/storage/chunk_store.h"
#include "core/storage/record_store.h"

namespace diffmoe::test {

enum class DamageOutcome {
  kRefused,   // the store doesn't open, and says which file or which commits
  kNamed,     // it opens; what is damaged is named when it is read or verified, all else is right
  kHarmless,  // it opens, and everything is right
};

struct CorruptionSummary {
  int cases = 0;
  // By kind of file ("records *.log"), in the order of DamageOutcome.
  std::map<std::string, std::vector<int>> outcomes;
};

// Use from one thread.
class CorruptionRun {
 public:
  // Writes the undamaged stores below `dir`, which exists. The same seed makes the same cases.
  CorruptionRun(std::string dir, uint64_t seed);

  // The first silent loss, or damage that is reported without a name, is the error; it says which
  // bytes of which file were changed.
  absl::Status Run(int cases);
  const CorruptionSummary& summary() const { return summary_; }

 private:
  struct Checkpoint {
    CheckpointId id;
    std::vector<std::string> bytes;  // per shard
    std::vector<ShardLayout> layouts;
  };
  struct Damage {
    std::string file;  // below the store's directory
    std::string what;
  };

  void WriteRecords();
  void WriteChunks();
  Checkpoint WriteCheckpoint(ChunkStore& store, const CheckpointId& id, int64_t bytes);
  absl::Status RunCase(bool records);
  Damage Harm(const std::string& store);
  absl::StatusOr<DamageOutcome> JudgeRecords(const std::string& store, const Damage& damage);
  absl::Status CheckRecords(const RecordStore& store, bool* damaged) const;
  absl::StatusOr<DamageOutcome> JudgeChunks(const std::string& store, const Damage& damage);
  absl::Status RepairChunks(const std::string& store);
  // Whether the checkpoint is whole. INTERNAL for a silent loss.
  absl::StatusOr<bool> CheckCheckpoint(const ChunkStore& store, const Checkpoint& checkpoint,
                                       const Damage& damage) const;
  int64_t Random(int64_t below) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(below));
  }

  const std::string dir_;
  std::mt19937_64 random_;
  std::map<std::string, std::string> records_;  // every key that is there
  std::vector<std::string> deleted_;            // keys that are not
  int64_t commits_ = 0;
  std::vector<Checkpoint> checkpoints_;
  CorruptionSummary summary_;
};

}  // namespace diffmoe::test
