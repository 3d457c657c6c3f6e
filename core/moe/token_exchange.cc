#include "core/moe/token_exchange.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "core/kernels/permute_ops.h"
#include "core/moe/choice.h"
#include "core/moe/selection.h"

namespace diffmoe {
namespace {

int64_t Sum(const std::vector<int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

// What an owner answers to one rank: per owned expert its quantile and the rows that it takes from
// each rank, then the mask of the asking rank's tokens, [n, owned] bytes.
struct Reply {
  int64_t owned, ranks, tokens;
  int64_t bytes() const { return owned * (8 + 8 * ranks + tokens); }
  double* quantile(uint8_t* reply, int64_t e) const {
    return reinterpret_cast<double*>(reply) + e * (1 + ranks);
  }
  int64_t* counts(uint8_t* reply, int64_t e) const {
    return reinterpret_cast<int64_t*>(reply) + e * (1 + ranks) + 1;
  }
  uint8_t* mask(uint8_t* reply) const { return reply + owned * 8 * (1 + ranks); }
};

// Rounded up, so that the numbers of every reply are aligned.
int64_t Padded(int64_t bytes) { return (bytes + 7) / 8 * 8; }

}  // namespace

TokenExchange::TokenExchange(Collectives& collectives, const ExpertPlacement& placement,
                             std::string layer)
    : collectives_(&collectives), placement_(placement), layer_(std::move(layer)) {}

void TokenExchange::CheckFinite(const at::Tensor& scores, const char* what) const {
  const int64_t experts = scores.size(1);
  AT_DISPATCH_FLOATING_TYPES(scores.scalar_type(), "check_finite", [&] {
    const scalar_t* values = scores.const_data_ptr<scalar_t>();
    for (int64_t i = 0; i < scores.numel(); ++i) {
      if (std::isfinite(values[i])) continue;
      throw NonFiniteScoreError(absl::StrCat(what, " of ", layer_, ", expert ", i % experts,
                                             " is not a finite number for token ", i / experts,
                                             " of rank ", placement_.rank()));
    }
  });
}

Selection TokenExchange::SelectGlobal(const at::Tensor& gate, const at::Tensor& predictor,
                                      const std::vector<int64_t>& capacities) {
  CheckFinite(gate, "gate score");
  if (predictor.defined()) CheckFinite(predictor, "capacity predictor");
  const int64_t ranks = world_size(), tokens = gate.size(0), experts = placement_.experts();
  const int64_t parts = predictor.defined() ? 2 : 1;
  const ExpertRange mine = placement_.owned();

  // Scores go to the owners, expert after expert: [owned][parts][n].
  std::vector<int64_t> send_sizes, receive_sizes(static_cast<size_t>(ranks)), reply_sizes;
  for (int64_t r = 0; r < ranks; ++r) {
    send_sizes.push_back(placement_.owned(r).count * parts * tokens);
    receive_sizes[static_cast<size_t>(r)] = mine.count * parts * tokens;
    reply_sizes.push_back(Padded(Reply{placement_.owned(r).count, ranks, tokens}.bytes()));
  }
  at::Tensor send = at::empty({experts, parts, tokens}, gate.options());
  send.select(1, 0).copy_(gate.t());
  if (parts == 2) send.select(1, 1).copy_(predictor.t());
  at::Tensor scores = at::empty({Sum(receive_sizes)}, gate.options());
  collectives_->AllToAllRows(scores, send.view({-1}), receive_sizes, send_sizes,
                             "gate scores of " + layer_);

  const at::Tensor replies = Decide(scores, capacities, tokens, parts);
  const int64_t stride = replies.size(1);
  at::Tensor answers = at::empty({Sum(reply_sizes)}, at::TensorOptions().dtype(at::kByte));
  collectives_->AllToAllRows(answers, replies.view({-1}), reply_sizes,
                             std::vector<int64_t>(static_cast<size_t>(ranks), stride),
                             "selection of " + layer_);

  at::Tensor mask = at::empty({tokens, experts}, at::TensorOptions().dtype(at::kByte));
  at::Tensor quantiles = at::empty({experts}, at::TensorOptions().dtype(at::kDouble));
  std::vector<std::vector<int64_t>> counts(static_cast<size_t>(ranks),
                                           std::vector<int64_t>(static_cast<size_t>(experts)));
  uint8_t* answer = answers.mutable_data_ptr<uint8_t>();
  for (int64_t owner = 0; owner < ranks; ++owner) {
    const ExpertRange owned = placement_.owned(owner);
    const Reply from{owned.count, ranks, tokens};
    for (int64_t e = 0; e < owned.count; ++e) {
      const int64_t expert = owned.first + e;
      quantiles.mutable_data_ptr<double>()[expert] = *from.quantile(answer, e);
      for (int64_t r = 0; r < ranks; ++r) {
        counts[static_cast<size_t>(r)][static_cast<size_t>(expert)] = from.counts(answer, e)[r];
      }
      const uint8_t* taken = from.mask(answer) + e * tokens;
      for (int64_t t = 0; t < tokens; ++t) {
        mask.mutable_data_ptr<uint8_t>()[t * experts + expert] = taken[t];
      }
    }
    answer += reply_sizes[static_cast<size_t>(owner)];
  }
  Selection selection = Complete(mask, counts);
  if (parts == 2) selection.quantiles = quantiles;
  return selection;
}

at::Tensor TokenExchange::Decide(const at::Tensor& scores, const std::vector<int64_t>& capacities,
                                 int64_t tokens, int64_t parts) const {
  const int64_t ranks = world_size();
  const ExpertRange mine = placement_.owned();
  const Reply reply{mine.count, ranks, tokens};
  const int64_t stride = Padded(reply.bytes());
  at::Tensor replies = at::zeros({ranks, stride}, at::TensorOptions().dtype(at::kByte));
  uint8_t* out = replies.mutable_data_ptr<uint8_t>();
  AT_DISPATCH_FLOATING_TYPES(scores.scalar_type(), "select", [&] {
    const scalar_t* data = scores.const_data_ptr<scalar_t>();
    std::vector<scalar_t> pool(static_cast<size_t>(ranks * tokens));
    const auto gather = [&](int64_t e, int64_t part) {
      for (int64_t r = 0; r < ranks; ++r) {
        const scalar_t* column = data + ((r * mine.count + e) * parts + part) * tokens;
        std::copy(column, column + tokens, pool.begin() + r * tokens);
      }
    };
    for (int64_t e = 0; e < mine.count; ++e) {
      const int64_t k = capacities[static_cast<size_t>(mine.first + e)];
      gather(e, 0);
      for (const int64_t id : SelectTopK<scalar_t>(pool, k)) {
        const int64_t r = id / tokens;
        reply.mask(out + r * stride)[e * tokens + id % tokens] = 1;
        for (int64_t to = 0; to < ranks; ++to) ++reply.counts(out + to * stride, e)[r];
      }
      if (parts == 1) continue;
      gather(e, 1);
      const std::span<const scalar_t> predicted(pool);
      const double quantile =
          Planted(Fault::kThresholdFromLocalPool)
              ? KthLargest<scalar_t>(predicted.first(static_cast<size_t>(tokens)),
                                     std::max<int64_t>(k / ranks, 1))
              : KthLargest<scalar_t>(predicted, k);
      for (int64_t r = 0; r < ranks; ++r) *reply.quantile(out + r * stride, e) = quantile;
    }
  });
  return replies;
}

Selection TokenExchange::SelectLocal(const at::Tensor& mask, const std::vector<double>& quantiles) {
  const int64_t ranks = world_size(), tokens = mask.size(0), experts = mask.size(1);
  // Per rank: rows per expert, then its quantiles.
  at::Tensor row = at::zeros({experts + static_cast<int64_t>(quantiles.size())},
                             at::TensorOptions().dtype(at::kDouble));
  const uint8_t* taken = mask.const_data_ptr<uint8_t>();
  double* values = row.mutable_data_ptr<double>();
  for (int64_t i = 0; i < tokens * experts; ++i) values[i % experts] += taken[i];
  std::copy(quantiles.begin(), quantiles.end(), values + experts);
  at::Tensor all = at::empty({ranks, row.size(0)}, row.options());
  collectives_->AllGather(all, row, "rows per expert of " + layer_);

  std::vector<std::vector<int64_t>> counts(static_cast<size_t>(ranks));
  const double* gathered = all.const_data_ptr<double>();
  for (int64_t r = 0; r < ranks; ++r) {
    for (int64_t e = 0; e < experts; ++e) {
      counts[static_cast<size_t>(r)].push_back(static_cast<int64_t>(gathered[r * row.size(0) + e]));
    }
  }
  Selection selection = Complete(mask, counts);
  if (quantiles.empty()) return selection;
  // The mean over all pools, added in pool order.
  const int64_t pools = static_cast<int64_t>(quantiles.size()) / experts;
  selection.quantiles = at::zeros({experts}, row.options());
  double* sums = selection.quantiles.mutable_data_ptr<double>();
  for (int64_t r = 0; r < ranks; ++r) {
    for (int64_t i = 0; i < pools * experts; ++i) {
      sums[i % experts] += gathered[r * row.size(0) + experts + i];
    }
  }
  selection.quantiles.div_(static_cast<double>(pools * ranks));
  return selection;
}

Selection TokenExchange::Complete(const at::Tensor& mask,
                                  const std::vector<std::vector<int64_t>>& counts) const {
  const int64_t ranks = world_size();
  const int rank = placement_.rank();
  Selection selection;
  selection.mask = mask;
  const ChosenRows chosen = IndexRows(mask);
  selection.rows = chosen.rows;
  selection.send_ids = chosen.ids;
  selection.send_counts.assign(static_cast<size_t>(ranks), 0);
  selection.receive_counts.assign(static_cast<size_t>(ranks), 0);
  selection.expert_tokens.assign(static_cast<size_t>(placement_.experts()), 0);
  for (int64_t e = 0; e < placement_.experts(); ++e) {
    const size_t expert = static_cast<size_t>(e);
    selection.send_counts[static_cast<size_t>(placement_.worker(e, rank))] += chosen.counts[expert];
    for (int64_t r = 0; r < ranks; ++r) {
      selection.expert_tokens[expert] += counts[static_cast<size_t>(r)][expert];
    }
  }
  const ExpertRange worked = placement_.worked();
  selection.expert_rows.assign(static_cast<size_t>(worked.count), 0);
  for (int64_t r = 0; r < ranks; ++r) {
    for (int64_t w = 0; w < worked.count; ++w) {
      const int64_t expert = worked.first + w;
      const int64_t rows = placement_.worker(expert, r) == rank
                               ? counts[static_cast<size_t>(r)][static_cast<size_t>(expert)]
                               : 0;
      selection.receive_pieces.push_back(rows);
      selection.receive_counts[static_cast<size_t>(r)] += rows;
      selection.expert_rows[static_cast<size_t>(w)] += rows;
    }
  }
  return selection;
}

bool TokenExchange::stays() const {
  return world_size() == 1 || (placement_.local_rows() && placement_.replicas() == world_size());
}

at::Tensor TokenExchange::Dispatch(const at::Tensor& tokens, const Selection& selection) {
  return DispatchRows(GatherRows(tokens, selection.send_ids), selection, "dispatch");
}

at::Tensor TokenExchange::DispatchRows(const at::Tensor& rows, const Selection& selection,
                                       const std::string& what) {
  if (stays()) return rows;
  at::Tensor received = at::empty({Sum(selection.receive_counts), rows.size(1)}, rows.options());
  collectives_->AllToAllRows(received, rows, selection.receive_counts, selection.send_counts,
                             what + " of " + layer_);
  if (Planted(Fault::kTokensOfOneRankDropped)) {
    const int64_t last = selection.receive_counts.back();
    received.narrow(0, received.size(0) - last, last).zero_();
  }
  return Regroup(received, selection, /*to_expert_major=*/true);
}

at::Tensor TokenExchange::Return(const at::Tensor& expert_rows, const Selection& selection,
                                 const std::string& what) {
  if (stays()) return expert_rows;
  const at::Tensor send = Regroup(expert_rows, selection, /*to_expert_major=*/false);
  at::Tensor received =
      at::empty({selection.sent_rows(), expert_rows.size(1)}, expert_rows.options());
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
  const size_t pieces = selection.receive_pieces.size(), worked = selection.expert_rows.size();
  // First row of every piece when pieces stand source after source.
  std::vector<size_t> source_major(pieces + 1, 0);
  for (size_t i = 0; i < pieces; ++i) {
    source_major[i + 1] = source_major[i] + static_cast<size_t>(selection.receive_pieces[i]);
  }
  size_t expert_major = 0;
  for (size_t w = 0; w < worked; ++w) {
    for (size_t i = w; i < pieces; i += worked) {
      const size_t count = static_cast<size_t>(selection.receive_pieces[i]);
      const size_t from = to_expert_major ? source_major[i] : expert_major;
      const size_t into = to_expert_major ? expert_major : source_major[i];
      std::memcpy(to + into * row_bytes, in + from * row_bytes, count * row_bytes);
      expert_major += count;
    }
  }
  return out;
}

}  // namespace diffmoe
