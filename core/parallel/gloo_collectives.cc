#include "core/parallel/gloo_collectives.h"

#include <fcntl.h>
#include <unistd.h>

#include <functional>
#include <numeric>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

class GlooCollectives final : public Collectives {
 public:
  GlooCollectives(c10::intrusive_ptr<c10d::Store> store, int rank, int world_size,
                  std::chrono::milliseconds timeout, const std::string& interface_address)
      : rank_(rank), world_size_(world_size) {
    auto options = c10d::ProcessGroupGloo::Options::create();
    options->timeout = timeout;
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(interface_address));
    try {
      group_ =
          c10::make_intrusive<c10d::ProcessGroupGloo>(std::move(store), rank, world_size, options);
    } catch (const std::exception& error) {
      throw CollectiveError(absl::StrCat("rank ", rank, " could not join its group of ", world_size,
                                         " ranks: ", error.what()));
    }
  }

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }

  void AllToAll(at::Tensor& out, const at::Tensor& in, const std::string& what) override {
    std::vector<int64_t> even;
    Run(what, in,
        [&] { return group_->alltoall_base(out, const_cast<at::Tensor&>(in), even, even); });
  }

  void AllToAllRows(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& receive_rows,
                    const std::vector<int64_t>& send_rows, const std::string& what) override {
    // A receiver that is sent more than it expects dies inside Gloo, and fewer rows leave old
    // bytes; so both sides check what they can see.
    const auto sum = [](const std::vector<int64_t>& rows) {
      return std::accumulate(rows.begin(), rows.end(), int64_t{0});
    };
    if (sum(receive_rows) != out.size(0) || sum(send_rows) != in.size(0)) {
      throw CollectiveError(absl::StrCat("rank ", rank_, ", ", what, ": expected to send ",
                                         sum(send_rows), " and receive ", sum(receive_rows),
                                         " rows, buffers have ", in.size(0), " and ", out.size(0)));
    }
    // alltoall_base moves its count vectors out: it gets copies.
    std::vector<int64_t> receive = receive_rows, send = send_rows;
    Run(what, in,
        [&] { return group_->alltoall_base(out, const_cast<at::Tensor&>(in), receive, send); });
  }

  void AllGather(at::Tensor& out, const at::Tensor& in, const std::string& what) override {
    at::Tensor flat = out.view({-1});
    Run(what, in, [&] { return group_->_allgather_base(flat, const_cast<at::Tensor&>(in)); });
  }

 private:
  void Run(const std::string& what, const at::Tensor& in,
           const std::function<c10::intrusive_ptr<c10d::Work>()>& start) {
    const auto begin = std::chrono::steady_clock::now();
    try {
      start()->wait();
    } catch (const std::exception& error) {
      throw CollectiveError(
          absl::StrCat("rank ", rank_, " of ", world_size_, ", ", what, ": ", error.what()));
    }
    counters_.seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    counters_.calls += 1;
    counters_.bytes_sent += static_cast<int64_t>(in.nbytes()) / world_size_ * (world_size_ - 1);
  }

  int rank_, world_size_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace

std::unique_ptr<Collectives> MakeGlooCollectives(c10::intrusive_ptr<c10d::Store> store, int rank,
                                                 int world_size, std::chrono::milliseconds timeout,
                                                 const std::string& interface_address) {
  return std::make_unique<GlooCollectives>(std::move(store), rank, world_size, timeout,
                                           interface_address);
}

}  // namespace diffmoe
