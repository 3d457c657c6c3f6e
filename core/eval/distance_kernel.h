// Squared distances between many vectors, laid out so that the compiler vectorises over reference
// vectors: no sum is reordered, hence the same bits with and without wide registers.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace diffmoe {

// Reference vectors in blocks of kBlock, transposed within a block. Immutable, so thread-safe.
class PackedVectors {
 public:
  static constexpr int64_t kBlock = 16;
  static constexpr int64_t kQueries = 4;

  // values: [count, dimensions].
  PackedVectors(absl::Span<const float> values, int64_t dimensions);

  int64_t count() const { return count_; }
  int64_t blocks() const { return (count_ + kBlock - 1) / kBlock; }
  // out[q][i] = |queries[q] - reference[block * kBlock + i]|^2. Entries past count() hold nothing
  // of use.
  void SquaredDistances(const float* const queries[kQueries], int64_t block,
                        float out[kQueries][kBlock]) const;

 private:
  int64_t dimensions_;
  int64_t count_;
  std::vector<float> packed_;  // [blocks, dimensions, kBlock]
  bool wide_;
};

}  // namespace diffmoe
