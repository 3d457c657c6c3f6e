// Which rank holds, trains and computes which expert. The E experts of a layer are split into P
// shards (P = expert-parallel degree) of E/P experts; each shard is held by R/P neighbouring ranks,
// its replicas.
//
// - held: the weights are on the rank.
// - owned: the rank selects the expert's tokens and keeps its optimiser state. Each expert has one
//   owner; the owned experts of a rank are part of those that it holds.
// - worked: the rank computes the expert's rows. Normally the owner does all of them, in one call,
//   so that their bits don't depend on R or P. With `local_rows` a rank's tokens stay among the
//   ranks with its own replica index: less traffic, weight gradients are summed over replicas.
#pragma once

#include <cstdint>

namespace diffmoe {

struct ExpertRange {
  int64_t first = 0, count = 0;
  bool contains(int64_t expert) const { return expert >= first && expert < first + count; }
};

class ExpertPlacement {
 public:
  // Throws std::invalid_argument unless expert_parallel divides both world_size and experts.
  // experts = 0: a model without experts.
  ExpertPlacement(int64_t experts, int rank, int world_size, int64_t expert_parallel,
                  bool local_rows);

  int64_t experts() const { return experts_; }
  int rank() const { return rank_; }
  int world_size() const { return world_size_; }
  // Ranks that hold the same experts: [first_replica(), first_replica() + replicas()).
  int64_t replicas() const { return replicas_; }
  int64_t first_replica() const { return rank_ / replicas_ * replicas_; }
  bool local_rows() const { return local_rows_; }

  ExpertRange held() const;
  ExpertRange owned(int64_t rank) const;
  ExpertRange owned() const { return owned(rank_); }
  ExpertRange worked() const { return local_rows_ ? held() : owned(); }
  int64_t owner(int64_t expert) const;
  // The rank that computes the rows which `source` sends to `expert`.
  int64_t worker(int64_t expert, int64_t source) const;

 private:
  int64_t experts_;
  int rank_, world_size_;
  int64_t shard_experts_, replicas_;
  bool local_rows_;
};

}  // namespace diffmoe
