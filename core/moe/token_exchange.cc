#include "core/moe/token_exchange.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/kernels/permute_ops.h"
#include "core/moe/moe_layer.h"
#include "core/moe/selection.h"

namespace diffmoe {
namespace {

// Scores of one owned expert over the pool, from blocks [R, 2, T/R, E/R]. part 0: gate, 1:
// predictor.
template <typename Real>
std::vector<Real> Column(const at::Tensor& blocks, int64_t part, int64_t expert) {
  const int64_t ranks = blocks.size(0), tokens = blocks.size(2), owned = blocks.size(3);
  const Real* data = blocks.const_data_ptr<Real>();
  std::vector<Real> column(static_cast<size_t>(ranks * tokens));
  for (int64_t r = 0; r < ranks; ++r) {
    const Real* block = data + (r * 2 + part) * tokens * owned;
    for (int64_t t = 0; t < tokens; ++t)
      column[static_cast<size_t>(r * tokens + t)] = block[t * owned + expert];
  }
  return column;
}

template <typename Real>
void CheckFinite(const std::vector<Real>& scores, const char* what, const std::string& layer,
                 int64_t expert, int64_t tokens_per_rank) {
  for (size_t i = 0; i < scores.size(); ++i) {
    if (std::isfinite(scores[i])) continue;
    throw NonFiniteScoreError(absl::StrCat(what, " of ", layer, ", expert ", expert,
                                           " is not a finite number for token ", i, " of rank ",
                                           static_cast<int64_t>(i) / tokens_per_rank));
  }
}

}  // namespace

TokenExchange::TokenExchange(Collectives& collectives, int64_t experts, std::string layer)
    : collectives_(&collectives),
      experts_(experts),
      owned_(experts / collectives.world_size()),
      layer_(std::move(layer)) {}

Selection TokenExchange::Select(const at::Tensor& gate, const at::Tensor& predictor,
                                const std::vector<int64_t>& capacities) {
  const int64_t ranks = collectives_->world_size(), tokens = gate.size(0), owned = owned_;
  const int64_t first = collectives_->rank() * owned;
  // [R, 2, T/R, E/R]
  const auto by_owner = [&](const at::Tensor& scores) {
    return scores.view({tokens, ranks, owned}).transpose(0, 1);
  };
  const at::Tensor send = at::stack({by_owner(gate), by_owner(predictor)}, 1).contiguous();
  at::Tensor blocks = at::empty_like(send);
  collectives_->AllToAll(blocks, send, "gate scores of " + layer_);

  // To every rank: E/R quantiles (8 bytes each), then its [T/R, E/R] mask.
  const int64_t message_bytes = owned * 8 + tokens * owned;
  at::Tensor reply = at::zeros({ranks, message_bytes}, at::TensorOptions().dtype(at::kByte));
  Selection selection;
  selection.receive_pieces.assign(static_cast<size_t>(ranks * owned), 0);
  selection.receive_counts.assign(static_cast<size_t>(ranks), 0);
  uint8_t* reply_data = reply.mutable_data_ptr<uint8_t>();
  AT_DISPATCH_FLOATING_TYPES(gate.scalar_type(), "select", [&] {
    for (int64_t e = 0; e < owned; ++e) {
      const int64_t k = capacities[static_cast<size_t>(first + e)];
      const auto scores = Column<scalar_t>(blocks, 0, e),
                 predicted = Column<scalar_t>(blocks, 1, e);
      CheckFinite(scores, "gate score", layer_, first + e, tokens);
      CheckFinite(predicted, "capacity predictor", layer_, first + e, tokens);
      selection.selected.push_back(SelectTopK<scalar_t>(scores, k));
      selection.expert_rows.push_back(k);
      const double quantile = KthLargest<scalar_t>(predicted, k);
      for (int64_t r = 0; r < ranks; ++r)
        std::memcpy(reply_data + r * message_bytes + e * 8, &quantile, 8);
      for (int64_t id : selection.selected.back()) {
        const int64_t r = id / tokens;
        reply_data[r * message_bytes + owned * 8 + (id % tokens) * owned + e] = 1;
        ++selection.receive_pieces[static_cast<size_t>(r * owned + e)];
        ++selection.receive_counts[static_cast<size_t>(r)];
      }
    }
  });
  at::Tensor answer = at::empty_like(reply);
  collectives_->AllToAll(answer, reply, "selection of " + layer_);

  selection.mask = at::empty({tokens, experts_}, at::TensorOptions().dtype(at::kByte));
  selection.rows = at::empty({tokens, experts_}, at::TensorOptions().dtype(at::kInt));
  selection.quantiles = at::empty({experts_}, at::TensorOptions().dtype(at::kDouble));
  selection.send_counts.assign(static_cast<size_t>(ranks), 0);
  const uint8_t* answers = answer.const_data_ptr<uint8_t>();
  uint8_t* mask = selection.mask.mutable_data_ptr<uint8_t>();
  int32_t* rows = selection.rows.mutable_data_ptr<int32_t>();
  std::vector<int64_t> send_ids;
  for (int64_t e = 0; e < experts_; ++e) {
    const int64_t owner = e / owned;
    const uint8_t* message = answers + owner * message_bytes;
    std::memcpy(selection.quantiles.mutable_data_ptr<double>() + e, message + (e % owned) * 8, 8);
    for (int64_t t = 0; t < tokens; ++t) {
      const uint8_t taken = message[owned * 8 + t * owned + e % owned];
      mask[t * experts_ + e] = taken;
      rows[t * experts_ + e] = taken != 0 ? static_cast<int32_t>(selection.sent_rows++) : -1;
      if (taken != 0) {
        send_ids.push_back(t);
        ++selection.send_counts[static_cast<size_t>(owner)];
      }
    }
  }
  selection.send_ids = at::empty({selection.sent_rows}, at::TensorOptions().dtype(at::kLong));
  std::copy(send_ids.begin(), send_ids.end(), selection.send_ids.mutable_data_ptr<int64_t>());
  return selection;
}

at::Tensor TokenExchange::Dispatch(const at::Tensor& tokens, const Selection& selection) {
  return DispatchRows(GatherRows(tokens, selection.send_ids), selection, "dispatch");
}

at::Tensor TokenExchange::DispatchRows(const at::Tensor& rows, const Selection& selection,
                                       const std::string& what) {
  if (collectives_->world_size() == 1) return rows;
  const int64_t total =
      std::accumulate(selection.receive_counts.begin(), selection.receive_counts.end(), int64_t{0});
  at::Tensor received = at::empty({total, rows.size(1)}, rows.options());
  collectives_->AllToAllRows(received, rows, selection.receive_counts, selection.send_counts,
                             what + " of " + layer_);
  return Regroup(received, selection, /*to_expert_major=*/true);
}

at::Tensor TokenExchange::Return(const at::Tensor& expert_rows, const Selection& selection,
                                 const std::string& what) {
  if (collectives_->world_size() == 1) return expert_rows;
  const at::Tensor send = Regroup(expert_rows, selection, /*to_expert_major=*/false);
  at::Tensor received =
      at::empty({selection.sent_rows, expert_rows.size(1)}, expert_rows.options());
  collectives_->AllToAllRows(received, send, selection.send_counts, selection.receive_counts,
                             what + " of " + layer_);
  return received;
}

at::Tensor TokenExchange::Regroup(const at::Tensor& rows, const Selection& selection,
                                  bool to_expert_major) const {
  at::Tensor out = at::empty_like(rows);
  const size_t row_bytes = static_cast<size_t>(rows.size(1)) * rows.element_size();
  const char* in = static_cast<const char*>(rows.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t ranks = collectives_->world_size();
  size_t expert_major = 0;
  for (int64_t e = 0; e < owned_; ++e) {
    for (int64_t r = 0; r < ranks; ++r) {
      size_t source_major = 0;
      for (int64_t before = 0; before < r * owned_ + e; ++before) {
        source_major += static_cast<size_t>(selection.receive_pieces[static_cast<size_t>(before)]);
      }
      const size_t count =
          static_cast<size_t>(selection.receive_pieces[static_cast<size_t>(r * owned_ + e)]);
      const size_t from = to_expert_major ? source_major : expert_major;
      const size_t into = to_expert_major ? expert_major : source_major;
      std::memcpy(to + into * row_bytes, in + from * row_bytes, count * row_bytes);
      expert_major += count;
    }
  }
  return out;
}

}  // namespace diffmoe
