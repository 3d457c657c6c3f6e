#include "core/model/expert_placement.h"

#include <stdexcept>

#include "absl/strings/str_cat.h"

namespace diffmoe {

ExpertPlacement::ExpertPlacement(int64_t experts, int rank, int world_size, int64_t expert_parallel,
                                 bool local_rows)
    : experts_(experts), rank_(rank), world_size_(world_size) {
  if (expert_parallel < 1 || world_size % expert_parallel != 0) {
    throw std::invalid_argument(absl::StrCat("parallel.expert_parallel: expected a divisor of the ",
                                             world_size, " ranks, got ", expert_parallel));
  }
  if (experts % expert_parallel != 0) {
    throw std::invalid_argument(
        absl::StrCat("model.experts: expected a multiple of parallel.expert_parallel (",
                     expert_parallel, "), got ", experts));
  }
  shard_experts_ = experts / expert_parallel;
  replicas_ = world_size / expert_parallel;
  local_rows_ = local_rows && replicas_ > 1;
}

ExpertRange ExpertPlacement::held() const {
  return {rank_ / replicas_ * shard_experts_, shard_experts_};
}

ExpertRange ExpertPlacement::owned(int64_t rank) const {
  // The j-th replica owns experts [j * n / m, (j + 1) * n / m) of its shard's n.
  const int64_t shard = rank / replicas_, j = rank % replicas_;
  const int64_t begin = j * shard_experts_ / replicas_, end = (j + 1) * shard_experts_ / replicas_;
  return {shard * shard_experts_ + begin, end - begin};
}

int64_t ExpertPlacement::owner(int64_t expert) const {
  const int64_t first = expert / shard_experts_ * replicas_;
  for (int64_t rank = first; rank < first + replicas_; ++rank) {
    if (owned(rank).contains(expert)) return rank;
  }
  throw std::logic_error("an expert without owner");
}

int64_t ExpertPlacement::worker(int64_t expert, int64_t source) const {
  if (!local_rows_) return owner(expert);
  return expert / shard_experts_ * replicas_ + source % replicas_;
}

}  // namespace diffmoe
