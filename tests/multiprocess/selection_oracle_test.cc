// The exact global selection against an oracle that gathers everything and sorts: 100,000 random
// cases on 1, 2 and 4 ranks, with heavy ties, equal scores, signed zeros, denormals, K = 1, K = T
// and ranks none of whose tokens are selected.
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "core/moe/selection.h"
#include "core/moe/token_exchange.h"
#include "tests/multiprocess/rank_threads.h"

namespace diffmoe {
namespace {

enum Shape {
  kUniform,
  kFewValues,
  kAllEqual,
  kSignedZeros,
  kDenormals,
  kWideRange,
  kOneRankWins,  // all others lose every comparison
  kShapes,
};

// Scores of all tokens, [T][E]; the same on every rank.
template <typename Real>
std::vector<Real> DrawScores(std::mt19937_64& random, int64_t tokens, int64_t experts,
                             int64_t tokens_per_rank) {
  std::vector<Real> scores(static_cast<size_t>(tokens * experts));
  const auto shape = static_cast<Shape>(random() % kShapes);
  const int64_t winner = static_cast<int64_t>(random() % 4) * tokens_per_rank;
  for (size_t i = 0; i < scores.size(); ++i) {
    const Real uniform = static_cast<Real>(random() >> 11) * static_cast<Real>(0x1p-53);
    const int64_t token = static_cast<int64_t>(i) / experts;
    switch (shape) {
      case kFewValues:
        scores[i] = static_cast<Real>(random() % 3) / 3;
        break;
      case kAllEqual:
        scores[i] = static_cast<Real>(0.25);
        break;
      case kSignedZeros:
        scores[i] = random() % 2 == 0 ? Real{0} : -Real{0};
        break;
      case kDenormals:
        scores[i] = std::numeric_limits<Real>::denorm_min() * static_cast<Real>(random() % 5) *
                    (random() % 2 == 0 ? 1 : -1);
        break;
      case kWideRange:
        scores[i] = std::ldexp(uniform - Real{0.5}, static_cast<int>(random() % 200) - 100);
        break;
      case kOneRankWins:
        scores[i] = uniform + (token >= winner && token < winner + tokens_per_rank ? 2 : 0);
        break;
      default:
        scores[i] = uniform;
    }
  }
  return scores;
}

// Ids of the K best: value descending, smaller id first.
template <typename Real>
std::vector<int64_t> Oracle(const std::vector<Real>& scores, int64_t experts, int64_t expert,
                            int64_t k) {
  std::vector<int64_t> ids(scores.size() / static_cast<size_t>(experts));
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a * experts + expert)] >
           scores[static_cast<size_t>(b * experts + expert)];
  });
  ids.resize(static_cast<size_t>(k));
  return ids;
}

template <typename Real>
at::Tensor Rows(const std::vector<Real>& scores, int64_t first, int64_t tokens, int64_t experts,
                at::ScalarType dtype) {
  at::Tensor rows = at::empty({tokens, experts}, at::TensorOptions().dtype(dtype));
  std::copy_n(scores.begin() + first * experts, tokens * experts, rows.data_ptr<Real>());
  return rows;
}

// One case on every rank. Returns the number of mismatches.
template <typename Real>
int64_t CheckCase(Collectives& collectives, uint64_t seed, at::ScalarType dtype) {
  std::mt19937_64 random(seed);
  const int64_t ranks = collectives.world_size(), tokens = 1 + static_cast<int64_t>(random() % 24);
  // A divisor of the ranks, experts a multiple of it: also fewer experts than ranks.
  const int64_t expert_parallel = ranks >> (random() % 3 % (std::bit_width(uint64_t(ranks))));
  const int64_t experts = expert_parallel * (1 + static_cast<int64_t>(random() % 3));
  const bool local_rows = random() % 2 == 0;
  const int64_t pool = tokens * ranks;
  const double capacity = random() % 4 == 0   ? static_cast<double>(experts)  // K = T
                          : random() % 3 == 0 ? 1e-3                          // K = 1
                                              : 0.1 + static_cast<double>(random() % 100) / 100 * 2;
  const std::vector<int64_t> k =
      ExpertCapacities(pool, experts, std::min(capacity, static_cast<double>(experts)));
  const auto gate = DrawScores<Real>(random, pool, experts, tokens);
  const auto predictor = DrawScores<Real>(random, pool, experts, tokens);

  const ExpertPlacement placement(experts, collectives.rank(), static_cast<int>(ranks),
                                  expert_parallel, local_rows);
  TokenExchange exchange(collectives, placement, "block 1");
  const int64_t first = collectives.rank() * tokens;
  const Selection got = exchange.SelectGlobal(Rows(gate, first, tokens, experts, dtype),
                                              Rows(predictor, first, tokens, experts, dtype), k);

  int64_t mismatches = 0;
  const uint8_t* mask = got.mask.const_data_ptr<uint8_t>();
  std::vector<int64_t> expected_rows(static_cast<size_t>(placement.worked().count), 0);
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t count = k[static_cast<size_t>(e)];
    std::vector<uint8_t> want(static_cast<size_t>(pool), 0);
    for (int64_t id : Oracle(gate, experts, e, count)) {
      want[static_cast<size_t>(id)] = 1;
      if (placement.worker(e, id / tokens) == collectives.rank()) {
        ++expected_rows[static_cast<size_t>(e - placement.worked().first)];
      }
    }
    for (int64_t t = 0; t < tokens; ++t) {
      mismatches += mask[t * experts + e] != want[static_cast<size_t>(first + t)] ? 1 : 0;
    }
    const int64_t last = Oracle(predictor, experts, e, count).back();
    const double quantile = predictor[static_cast<size_t>(last * experts + e)];
    mismatches += got.quantiles.const_data_ptr<double>()[e] != quantile ? 1 : 0;
    mismatches += got.expert_tokens[static_cast<size_t>(e)] != count ? 1 : 0;
  }
  mismatches += got.expert_rows != expected_rows ? 1 : 0;
  return mismatches;
}

void CheckCases(int world_size, uint64_t first_seed, uint64_t cases) {
  std::atomic<int64_t> mismatches = 0;
  RunRanks(world_size, [&](Collectives& collectives) {
    for (uint64_t seed = first_seed; seed < first_seed + cases; ++seed) {
      const int64_t wrong = seed % 2 == 0 ? CheckCase<float>(collectives, seed, at::kFloat)
                                          : CheckCase<double>(collectives, seed, at::kDouble);
      if (wrong > 0 && mismatches.fetch_add(wrong) == 0) {
        ADD_FAILURE() << "first mismatch: seed " << seed << ", rank " << collectives.rank()
                      << " of " << world_size;
      }
    }
  });
  EXPECT_EQ(mismatches.load(), 0) << cases << " cases on " << world_size << " ranks";
}

TEST(SelectionOracle, OneRank) { CheckCases(1, 0, 40000); }
TEST(SelectionOracle, TwoRanks) { CheckCases(2, 100000, 40000); }
TEST(SelectionOracle, FourRanks) { CheckCases(4, 200000, 20000); }

TEST(SelectionOracle, NotANumberNamesLayerRankAndExpert) {
  RunRanks(1, [&](Collectives& collectives) {
    const ExpertPlacement placement(4, 0, 1, 1, false);
    TokenExchange exchange(collectives, placement, "block 7");
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      std::vector<float> scores(12, 0.5f);
      scores[6] = bad;  // token 1, expert 2
      try {
        exchange.SelectGlobal(Rows(scores, 0, 3, 4, at::kFloat), {}, {1, 1, 1, 1});
        ADD_FAILURE() << bad << " went through";
      } catch (const NonFiniteScoreError& error) {
        EXPECT_STREQ(
            error.what(),
            "gate score of block 7, expert 2 is not a finite number for token 1 of rank 0");
      }
    }
  });
}

}  // namespace
}  // namespace diffmoe
