// What one rank may say to the others. One implementation over a process group (Gloo here, NCCL in
// the CUDA plugin), one for a single rank. Buffers must be contiguous. Calls are collective: all
// ranks make them in the same order; each names itself in `what` ("dispatch of block 3"), and a
// failure throws CollectiveError that names rank, collective and peerless cause. Not thread-safe:
// one thread per rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace diffmoe {

class CollectiveError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Counted since the start; `seconds` is time spent waiting in collectives.
struct CollectiveCounters {
  int64_t calls = 0;
  int64_t bytes_sent = 0;
  double seconds = 0;
};

class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  // out, in: [world_size, n] of one dtype; row r of `in` goes to rank r.
  virtual void AllToAll(at::Tensor& out, const at::Tensor& in, const std::string& what) = 0;
  // out: [sum(receive_rows), ...], in: [sum(send_rows), ...]; rows for and from rank r stand
  // together, in rank order. Both sides must have agreed on the counts.
  virtual void AllToAllRows(at::Tensor& out, const at::Tensor& in,
                            const std::vector<int64_t>& receive_rows,
                            const std::vector<int64_t>& send_rows, const std::string& what) = 0;
  // out: [world_size, n], in: [n].
  virtual void AllGather(at::Tensor& out, const at::Tensor& in, const std::string& what) = 0;

  const CollectiveCounters& counters() const { return counters_; }

 protected:
  CollectiveCounters counters_;
};

// A single rank: copies.
std::unique_ptr<Collectives> MakeLocalCollectives();

}  // namespace diffmoe
