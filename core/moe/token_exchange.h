// Moves scores, selections and token rows between the ranks that hold tokens, the ranks that own
// experts and the ranks that compute their rows (core/model/expert_placement.h). R ranks, n tokens
// on each, E experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/model/expert_placement.h"
#include "core/parallel/collectives.h"

namespace diffmoe {

// A score that is not a number: names layer, rank and expert. Ends the step.
class NonFiniteScoreError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The result of one selection, as one rank sees it.
struct Selection {
  // Token side. mask: [n, E] uint8, 1 where expert e took local token t.
  at::Tensor mask;
  // [n, E] int32: row of (t, e) in the exchanged buffer, -1 when not selected. Rows stand in
  // (expert, token) order.
  at::Tensor rows;
  at::Tensor send_ids;               // [sent rows] int64, local token of each sent row
  std::vector<int64_t> send_counts;  // rows per receiving rank
  // Worker side, for the experts that this rank works.
  std::vector<int64_t> receive_pieces;  // rows per (source rank, worked expert)
  std::vector<int64_t> receive_counts;  // rows per source rank
  std::vector<int64_t> expert_rows;     // rows per worked expert
  // The same on every rank.
  std::vector<int64_t> expert_tokens;  // [E] tokens of all ranks
  // [E] fp64: K-th largest predictor score over the pool, mean over pools; undefined without
  // predictor.
  at::Tensor quantiles;

  int64_t sent_rows() const { return send_ids.size(0); }
};

class TokenExchange {
 public:
  // `layer` appears in error messages, for example "block 3".
  TokenExchange(Collectives& collectives, const ExpertPlacement& placement, std::string layer);

  // Every expert takes its capacities[e] tokens with the largest gate value over all ranks: one
  // pool, one total order (ties: smaller global token id). gate, predictor: [n, E] scores of this
  // rank's tokens; predictor may be undefined. Throws NonFiniteScoreError.
  Selection SelectGlobal(const at::Tensor& gate, const at::Tensor& predictor,
                         const std::vector<int64_t>& capacities);

  // The choice is made already (core/moe/choice.h): tells the workers how many rows to expect.
  // `quantiles`: [pools of this rank][E], empty without predictor; as many pools on every rank.
  Selection SelectLocal(const at::Tensor& mask, const std::vector<double>& quantiles);

  // Throws NonFiniteScoreError naming the first such (token, expert). scores: [n, E].
  void CheckFinite(const at::Tensor& scores, const char* what) const;

  // tokens: [n, D] -> rows of the worked experts, expert after expert, ascending token id: [sum K,
  // D].
  at::Tensor Dispatch(const at::Tensor& tokens, const Selection& selection);
  // The same for rows that already stand in exchange order: [sent rows, D].
  at::Tensor DispatchRows(const at::Tensor& rows, const Selection& selection,
                          const std::string& what);
  // [sum K, D] at the worker -> [sent rows, D] at the token side.
  at::Tensor Return(const at::Tensor& expert_rows, const Selection& selection,
                    const std::string& what);

  int64_t world_size() const { return collectives_->world_size(); }
  const CollectiveCounters& counters() const { return collectives_->counters(); }

 private:
  // The owner's part: what it answers to every rank, [R, bytes], from the scores of all ranks.
  at::Tensor Decide(const at::Tensor& scores, const std::vector<int64_t>& capacities,
                    int64_t tokens, int64_t parts) const;
  // Fills everything but the quantiles. counts: [R][E], rows per source rank and expert.
  Selection Complete(const at::Tensor& mask, const std::vector<std::vector<int64_t>>& counts) const;
  // True when rows never leave this rank.
  bool stays() const;
  // Source-major (rank, expert) pieces <-> expert-major rows.
  at::Tensor Regroup(const at::Tensor& rows, const Selection& selection,
                     bool to_expert_major) const;

  Collectives* collectives_;
  ExpertPlacement placement_;
  std::string layer_;
};

}  // namespace diffmoe
