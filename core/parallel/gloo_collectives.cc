#include "core/parallel/gloo_collectives.h"

#include <functional>
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
  const char* transport() const override { return "gloo"; }

  void AllToAll(at::Tensor& out, const at::Tensor& in, const std::string& what) override {
    std::vector<int64_t> even;
    Run("all-to-all ", what, EvenBytes(in.nbytes() / static_cast<size_t>(world_size_)), {},
        [&] { return group_->alltoall_base(out, const_cast<at::Tensor&>(in), even, even); });
  }

  void AllToAllRows(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& receive_rows,
                    const std::vector<int64_t>& send_rows, const std::string& what) override {
    // A receiver that is sent more than it expects dies inside Gloo, and fewer rows leave old
    // bytes; so both sides check what they can see.
    CheckRows(out, in, receive_rows, send_rows, what);
    std::vector<int64_t> bytes;
    for (const int64_t rows : send_rows) {
      bytes.push_back(in.size(0) == 0 ? 0 : rows * static_cast<int64_t>(in.nbytes()) / in.size(0));
    }
    // alltoall_base moves its count vectors out: it gets copies.
    std::vector<int64_t> receive = receive_rows, send = send_rows;
    Run("all-to-all ", what, bytes, CountedRows(in, send_rows),
        [&] { return group_->alltoall_base(out, const_cast<at::Tensor&>(in), receive, send); });
  }

  void AllGather(at::Tensor& out, const at::Tensor& in, const std::string& what) override {
    at::Tensor flat = out.view({-1});
    Run("all-gather ", what, EvenBytes(in.nbytes()), {},
        [&] { return group_->_allgather_base(flat, const_cast<at::Tensor&>(in)); });
  }

  void SetTimeout(std::chrono::milliseconds timeout) override { group_->setTimeout(timeout); }

 private:
  std::vector<int64_t> EvenBytes(size_t bytes) const {
    return std::vector<int64_t>(static_cast<size_t>(world_size_), static_cast<int64_t>(bytes));
  }

  void Run(const char* kind, const std::string& what, const std::vector<int64_t>& bytes_to_rank,
           std::span<const int64_t> rows_to_rank,
           const std::function<c10::intrusive_ptr<c10d::Work>()>& start) {
    const ActivityScope scope(activity(), kind, what, /*waits_for_peers=*/true);
    const auto begin = std::chrono::steady_clock::now();
    try {
      start()->wait();
    } catch (const std::exception& error) {
      throw CollectiveError(
          absl::StrCat("rank ", rank_, " of ", world_size_, ", ", kind, what, ": ", error.what()));
    }
    Count(what, bytes_to_rank, rows_to_rank,
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
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
