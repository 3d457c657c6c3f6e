// Which experts each token uses, decided from scores that one rank holds. Scores are [n, E] fp32 or
// fp64 and finite; masks are [n, E] uint8, 1 where token t uses expert e.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace diffmoe {

// Token choice: every token takes its `top_k` experts with the largest gate value (ties: smaller
// expert first).
at::Tensor ChooseByTokens(const at::Tensor& gate, int64_t top_k);

struct PoolChoice {
  at::Tensor mask;
  // [pools][E], of each pool and expert the K-th largest score; empty without scores.
  std::vector<double> quantiles;
};

// Expert choice over consecutive pools of `pool_tokens` tokens: in each, expert e takes its
// capacities[e] tokens with the largest gate value (ties: smaller token first). `score` may be
// undefined.
PoolChoice ChooseByExperts(const at::Tensor& gate, const at::Tensor& score, int64_t pool_tokens,
                           const std::vector<int64_t>& capacities);

// Per token: expert e iff score > threshold[e]. threshold: [E] of the dtype of `score`.
at::Tensor ChooseByThreshold(const at::Tensor& score, const at::Tensor& threshold);

// The same with a threshold row per sample: token t belongs to sample t / sample_tokens and is
// compared with thresholds[sample]; samples with by_gate[sample] = 1 compare `gate` instead of
// `score`. thresholds: [b, E] of the dtype of the scores; by_gate: [b] uint8 or undefined for 0.
at::Tensor ChooseBySample(const at::Tensor& gate, const at::Tensor& score,
                          const at::Tensor& thresholds, const at::Tensor& by_gate,
                          int64_t sample_tokens);

// The published batch rule: expert e takes as many tokens as have score > threshold[e], those with
// the largest gate value. Batch mates matter.
at::Tensor ChooseByCount(const at::Tensor& gate, const at::Tensor& score,
                         const at::Tensor& threshold);

// The chosen (token, expert) pairs as rows in (expert, token) order.
struct ChosenRows {
  at::Tensor rows;              // [n, E] int32: row of (t, e), -1 when not chosen
  at::Tensor ids;               // [rows] int64: token of each row
  std::vector<int64_t> counts;  // rows per expert
};
ChosenRows IndexRows(const at::Tensor& mask);

}  // namespace diffmoe
