#include "core/parallel/collectives.h"

#include <ATen/ops/empty_like.h>

#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/parallel/gradient_tree.h"

namespace diffmoe {

void Collectives::ReduceScatter(at::Tensor& out, const at::Tensor& in, const std::string& what) {
  at::Tensor parts = at::empty_like(in).view({world_size(), -1});
  AllToAll(parts, in.view({world_size(), -1}), what);
  GradientTree tree;
  for (int64_t r = 0; r < world_size(); ++r) tree.Add({parts.select(0, r)});
  out.copy_(tree.Take().front());
}

void Collectives::Count(const std::string& what, std::span<const int64_t> bytes_to_rank,
                        std::span<const int64_t> rows_to_rank, double seconds) {
  const size_t ranks = static_cast<size_t>(world_size()), me = static_cast<size_t>(rank());
  counters_.bytes_to_rank.resize(ranks, 0);
  counters_.rows_to_rank.resize(ranks, 0);
  CollectiveCount& named = by_name_[what];
  for (size_t r = 0; r < ranks; ++r) {
    if (r == me) continue;
    counters_.bytes_to_rank[r] += bytes_to_rank[r];
    counters_.bytes_sent += bytes_to_rank[r];
    named.bytes_sent += bytes_to_rank[r];
    if (!rows_to_rank.empty()) counters_.rows_to_rank[r] += rows_to_rank[r];
  }
  ++counters_.calls;
  ++named.calls;
  counters_.seconds += seconds;
  named.seconds += seconds;
}

void Collectives::CheckRows(const at::Tensor& out, const at::Tensor& in,
                            const std::vector<int64_t>& receive_rows,
                            const std::vector<int64_t>& send_rows, const std::string& what) const {
  const auto sum = [](const std::vector<int64_t>& rows) {
    return std::accumulate(rows.begin(), rows.end(), int64_t{0});
  };
  if (sum(receive_rows) == out.size(0) && sum(send_rows) == in.size(0)) return;
  throw CollectiveError(absl::StrCat("rank ", rank(), " of ", world_size(), ", ", what,
                                     ": expected to send ", sum(send_rows), " and receive ",
                                     sum(receive_rows), " rows, buffers have ", in.size(0), " and ",
                                     out.size(0)));
}

}  // namespace diffmoe
