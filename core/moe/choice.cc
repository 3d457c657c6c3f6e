#include "core/moe/choice.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/moe/selection.h"

namespace diffmoe {
namespace {

at::Tensor NoChoice(const at::Tensor& scores) {
  return at::zeros(scores.sizes(), at::TensorOptions().dtype(at::kByte));
}

template <typename Real>
std::vector<Real> Column(const Real* scores, int64_t tokens, int64_t experts, int64_t expert) {
  std::vector<Real> column(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t)
    column[static_cast<size_t>(t)] = scores[t * experts + expert];
  return column;
}

}  // namespace

at::Tensor ChooseByTokens(const at::Tensor& gate, int64_t top_k) {
  const int64_t tokens = gate.size(0), experts = gate.size(1);
  at::Tensor mask = NoChoice(gate);
  uint8_t* taken = mask.mutable_data_ptr<uint8_t>();
  AT_DISPATCH_FLOATING_TYPES(gate.scalar_type(), "choose_by_tokens", [&] {
    const scalar_t* scores = gate.const_data_ptr<scalar_t>();
    for (int64_t t = 0; t < tokens; ++t) {
      const std::span<const scalar_t> row(scores + t * experts, static_cast<size_t>(experts));
      for (int64_t e : SelectTopK<scalar_t>(row, top_k)) taken[t * experts + e] = 1;
    }
  });
  return mask;
}

PoolChoice ChooseByExperts(const at::Tensor& gate, const at::Tensor& score, int64_t pool_tokens,
                           const std::vector<int64_t>& capacities) {
  const int64_t tokens = gate.size(0), experts = gate.size(1);
  PoolChoice choice{NoChoice(gate), {}};
  uint8_t* taken = choice.mask.mutable_data_ptr<uint8_t>();
  AT_DISPATCH_FLOATING_TYPES(gate.scalar_type(), "choose_by_experts", [&] {
    for (int64_t first = 0; first < tokens; first += pool_tokens) {
      const int64_t offset = first * experts;
      for (int64_t e = 0; e < experts; ++e) {
        const int64_t k = capacities[static_cast<size_t>(e)];
        const auto column =
            Column(gate.const_data_ptr<scalar_t>() + offset, pool_tokens, experts, e);
        for (int64_t t : SelectTopK<scalar_t>(column, k)) taken[offset + t * experts + e] = 1;
        if (!score.defined()) continue;
        const auto scores =
            Column(score.const_data_ptr<scalar_t>() + offset, pool_tokens, experts, e);
        choice.quantiles.push_back(KthLargest<scalar_t>(scores, k));
      }
    }
  });
  return choice;
}

at::Tensor ChooseByThreshold(const at::Tensor& score, const at::Tensor& threshold) {
  at::Tensor mask = NoChoice(score);
  uint8_t* taken = mask.mutable_data_ptr<uint8_t>();
  AT_DISPATCH_FLOATING_TYPES(score.scalar_type(), "choose_by_threshold", [&] {
    const scalar_t* scores = score.const_data_ptr<scalar_t>();
    const scalar_t* taus = threshold.const_data_ptr<scalar_t>();
    const int64_t experts = score.size(1);
    for (int64_t i = 0; i < score.numel(); ++i) taken[i] = scores[i] > taus[i % experts] ? 1 : 0;
  });
  return mask;
}

at::Tensor ChooseBySample(const at::Tensor& gate, const at::Tensor& score,
                          const at::Tensor& thresholds, const at::Tensor& by_gate,
                          int64_t sample_tokens) {
  const int64_t experts = gate.size(1), samples = gate.size(0) / sample_tokens;
  const uint8_t* gates = by_gate.defined() ? by_gate.const_data_ptr<uint8_t>() : nullptr;
  at::Tensor mask = NoChoice(gate);
  uint8_t* taken = mask.mutable_data_ptr<uint8_t>();
  AT_DISPATCH_FLOATING_TYPES(gate.scalar_type(), "choose_by_sample", [&] {
    for (int64_t s = 0; s < samples; ++s) {
      const at::Tensor& source = gates != nullptr && gates[s] != 0 ? gate : score;
      const scalar_t* scores = source.const_data_ptr<scalar_t>();
      const scalar_t* taus = thresholds.const_data_ptr<scalar_t>() + s * experts;
      const int64_t begin = s * sample_tokens * experts;
      for (int64_t i = 0; i < sample_tokens * experts; ++i) {
        taken[begin + i] = scores[begin + i] > taus[i % experts] ? 1 : 0;
      }
    }
  });
  return mask;
}

at::Tensor ChooseByCount(const at::Tensor& gate, const at::Tensor& score,
                         const at::Tensor& threshold) {
  const int64_t tokens = gate.size(0), experts = gate.size(1);
  const at::Tensor above = ChooseByThreshold(score, threshold);
  const uint8_t* passed = above.const_data_ptr<uint8_t>();
  at::Tensor mask = NoChoice(gate);
  uint8_t* taken = mask.mutable_data_ptr<uint8_t>();
  AT_DISPATCH_FLOATING_TYPES(gate.scalar_type(), "choose_by_count", [&] {
    for (int64_t e = 0; e < experts; ++e) {
      int64_t count = 0;
      for (int64_t t = 0; t < tokens; ++t) count += passed[t * experts + e];
      if (count == 0) continue;
      const auto column = Column(gate.const_data_ptr<scalar_t>(), tokens, experts, e);
      for (int64_t t : SelectTopK<scalar_t>(column, count)) taken[t * experts + e] = 1;
    }
  });
  return mask;
}

ChosenRows IndexRows(const at::Tensor& mask) {
  const int64_t tokens = mask.size(0), experts = mask.size(1);
  const uint8_t* taken = mask.const_data_ptr<uint8_t>();
  ChosenRows chosen;
  chosen.rows = at::empty({tokens, experts}, at::TensorOptions().dtype(at::kInt));
  chosen.counts.assign(static_cast<size_t>(experts), 0);
  int32_t* rows = chosen.rows.mutable_data_ptr<int32_t>();
  std::vector<int64_t> ids;
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t i = t * experts + e;
      rows[i] = taken[i] != 0 ? static_cast<int32_t>(ids.size()) : -1;
      if (taken[i] == 0) continue;
      ids.push_back(t);
      ++chosen.counts[static_cast<size_t>(e)];
    }
  }
  chosen.ids = at::empty({static_cast<int64_t>(ids.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(ids.begin(), ids.end(), chosen.ids.mutable_data_ptr<int64_t>());
  return chosen;
}

}  // namespace diffmoe
