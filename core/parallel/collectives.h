// What one rank may say to the others. Buffers must be contiguous. Calls are collective: all ranks
// make them in the same order, with the same `what` ("dispatch of block 3"); a failure throws
// CollectiveError that names rank, collective and cause, and ends the group. Not thread-safe: one
// thread per rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/activity.h"

namespace diffmoe {

class CollectiveError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Collectives of one name.
struct CollectiveCount {
  int64_t calls = 0;
  int64_t bytes_sent = 0;
  double seconds = 0;
};

// Counted since the start. What a rank sends to itself is not counted.
struct CollectiveCounters {
  int64_t calls = 0;
  int64_t bytes_sent = 0;
  double seconds = 0;                  // in collectives: waiting for peers and moving bytes
  std::vector<int64_t> bytes_to_rank;  // [world_size]
  std::vector<int64_t> rows_to_rank;   // [world_size], of AllToAllRows of matrices
};

class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  // How bytes travel: "local", "gloo" or "shared memory".
  virtual const char* transport() const = 0;

  // out, in: [world_size, n] of one dtype; row r of `in` goes to rank r.
  virtual void AllToAll(at::Tensor& out, const at::Tensor& in, const std::string& what) = 0;
  // out: [sum(receive_rows), ...], in: [sum(send_rows), ...]; rows for and from rank r stand
  // together, in rank order. Both sides must have agreed on the counts.
  virtual void AllToAllRows(at::Tensor& out, const at::Tensor& in,
                            const std::vector<int64_t>& receive_rows,
                            const std::vector<int64_t>& send_rows, const std::string& what) = 0;
  // out: [world_size, n], in: [n].
  virtual void AllGather(at::Tensor& out, const at::Tensor& in, const std::string& what) = 0;
  // out: [n], in: [world_size * n], fp32 or fp64. The sum over ranks of this rank's slice of `in`,
  // added as a binary tree over ranks (gradient_tree.h). The world size must be a power of two.
  virtual void ReduceScatter(at::Tensor& out, const at::Tensor& in, const std::string& what);

  // Longest time that this rank waits for its peers in one collective, from the next one on. Peers
  // may have another limit. The first one is that of joining.
  virtual void SetTimeout(std::chrono::milliseconds) {}
  // Where collectives say that this rank waits for its peers; outlives the group or is null.
  void SetActivity(Activity* activity) { activity_ = activity; }

  const CollectiveCounters& counters() const { return counters_; }
  // Key: `what`.
  const std::map<std::string, CollectiveCount>& counts_by_name() const { return by_name_; }

 protected:
  Activity* activity() const { return activity_; }
  // One finished collective. bytes_to_rank: [world_size]; rows_to_rank: the same, or empty.
  void Count(const std::string& what, std::span<const int64_t> bytes_to_rank,
             std::span<const int64_t> rows_to_rank, double seconds);
  // Throws CollectiveError unless the counts fit the buffers of AllToAllRows.
  void CheckRows(const at::Tensor& out, const at::Tensor& in,
                 const std::vector<int64_t>& receive_rows, const std::vector<int64_t>& send_rows,
                 const std::string& what) const;

  // `rows` when `in` has rows of several elements, otherwise empty.
  static std::span<const int64_t> CountedRows(const at::Tensor& in,
                                              const std::vector<int64_t>& rows) {
    return in.dim() > 1 ? std::span<const int64_t>(rows) : std::span<const int64_t>();
  }

 private:
  CollectiveCounters counters_;
  std::map<std::string, CollectiveCount> by_name_;
  Activity* activity_ = nullptr;
};

// A single rank: copies.
std::unique_ptr<Collectives> MakeLocalCollectives();

}  // namespace diffmoe
