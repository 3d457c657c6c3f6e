// Moves scores, selections and token rows between the ranks that hold tokens and the ranks that own
// experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/parallel/collectives.h"

namespace diffmoe {

// The result of one global selection, as one rank sees it.
struct Selection {
  // Token side. mask: [T/R, E] uint8, 1 where expert e took local token t.
  at::Tensor mask;
  // [T/R, E] int32: row of (t, e) in the exchanged buffer, -1 when not selected. Rows stand in
  // (expert, token) order.
  at::Tensor rows;
  int64_t sent_rows = 0;
  at::Tensor send_ids;               // [sent_rows] int64, local token of each sent row
  std::vector<int64_t> send_counts;  // rows per owner rank
  // Owner side. Rows per (source rank, owned expert), [R * E/R].
  std::vector<int64_t> receive_pieces;
  std::vector<int64_t> receive_counts;         // rows per source rank
  std::vector<int64_t> expert_rows;            // K of each owned expert
  std::vector<std::vector<int64_t>> selected;  // global ids per owned expert, ascending
  // [E] fp64 on every rank: the K-th largest predictor score of each expert over the pool.
  at::Tensor quantiles;
};

class TokenExchange {
 public:
  // `layer` appears in error messages, for example "block 3".
  TokenExchange(Collectives& collectives, int64_t experts, std::string layer);

  // gate, predictor: [T/R, E] scores of this rank's tokens. capacities: K of every expert [E].
  // Throws NonFiniteScoreError.
  Selection Select(const at::Tensor& gate, const at::Tensor& predictor,
                   const std::vector<int64_t>& capacities);

  // tokens: [T/R, D] -> rows of the owned experts, expert after expert, ascending token id: [sum K,
  // D].
  at::Tensor Dispatch(const at::Tensor& tokens, const Selection& selection);
  // The same for rows that already stand in exchange order: [sent_rows, D].
  at::Tensor DispatchRows(const at::Tensor& rows, const Selection& selection,
                          const std::string& what);
  // [sum K, D] at the owner -> [sent_rows, D] at the token side.
  at::Tensor Return(const at::Tensor& expert_rows, const Selection& selection,
                    const std::string& what);

  int64_t world_size() const { return collectives_->world_size(); }

 private:
  // Source-major (rank, expert) pieces <-> expert-major rows.
  at::Tensor Regroup(const at::Tensor& rows, const Selection& selection,
                     bool to_expert_major) const;

  Collectives* collectives_;
  int64_t experts_, owned_;
  std::string layer_;
};

}  // namespace diffmoe
