#include "core/eval/distance_kernel.h"

#include <cstring>

namespace diffmoe {
namespace {

constexpr int64_t kBlock = PackedVectors::kBlock;
constexpr int64_t kQueries = PackedVectors::kQueries;

// As many floats as one register holds.
typedef float Narrow __attribute__((vector_size(16)));
typedef float Wide __attribute__((vector_size(32)));

// One body, compiled for two instruction sets. FMA stays off in both, so that they agree.
template <typename Lane>
[[gnu::always_inline]] inline void Distances(const float* const queries[kQueries],
                                             const float* block, int64_t dimensions,
                                             float out[kQueries][kBlock]) {
  constexpr int64_t kLane = sizeof(Lane) / sizeof(float);
  constexpr int64_t kLanes = kBlock / kLane;
  for (int64_t first = 0; first < kLanes; first += 2) {
    Lane sums[kQueries][2] = {};
    for (int64_t d = 0; d < dimensions; ++d) {
      Lane rows[2];
      std::memcpy(rows, block + d * kBlock + first * kLane, sizeof(rows));
#pragma GCC unroll 4
      for (int64_t q = 0; q < kQueries; ++q) {
#pragma GCC unroll 2
        for (int64_t i = 0; i < 2; ++i) {
          const Lane difference = queries[q][d] - rows[i];
          sums[q][i] += difference * difference;
        }
      }
    }
    for (int64_t q = 0; q < kQueries; ++q) {
      std::memcpy(out[q] + first * kLane, sums[q], sizeof(sums[q]));
    }
  }
}

void DistancesPortable(const float* const queries[kQueries], const float* block, int64_t dimensions,
                       float out[kQueries][kBlock]) {
  Distances<Narrow>(queries, block, dimensions, out);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void DistancesWide(const float* const queries[kQueries], const float* block,
                                           int64_t dimensions, float out[kQueries][kBlock]) {
  Distances<Wide>(queries, block, dimensions, out);
}
bool HasWide() { return __builtin_cpu_supports("avx2"); }
#else
constexpr auto DistancesWide = DistancesPortable;
bool HasWide() { return false; }
#endif

}  // namespace

PackedVectors::PackedVectors(absl::Span<const float> values, int64_t dimensions)
    : dimensions_(dimensions),
      count_(static_cast<int64_t>(values.size()) / dimensions),
      packed_(static_cast<size_t>(blocks() * dimensions * kBlock), 0.0f),
      wide_(HasWide()) {
  for (int64_t i = 0; i < count_; ++i) {
    float* block = packed_.data() + i / kBlock * dimensions * kBlock + i % kBlock;
    for (int64_t d = 0; d < dimensions; ++d) block[d * kBlock] = values[i * dimensions + d];
  }
}

void PackedVectors::SquaredDistances(const float* const queries[kQueries], int64_t block,
                                     float out[kQueries][kBlock]) const {
  const float* data = packed_.data() + block * dimensions_ * kBlock;
  (wide_ ? DistancesWide : DistancesPortable)(queries, data, dimensions_, out);
}

}  // namespace diffmoe
