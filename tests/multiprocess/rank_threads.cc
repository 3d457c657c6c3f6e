#include "tests/multiprocess/rank_threads.h"

#include <ATen/Parallel.h>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <vector>

#include "core/parallel/gloo_collectives.h"

namespace diffmoe {
namespace {

using Store = c10::intrusive_ptr<c10d::Store>;
using JoinGroup = std::function<std::unique_ptr<Collectives>(Store store, int rank)>;

void RunThreads(int world_size, const JoinGroup& join, const RankBody& body) {
  // c10d's flight recorder is one object per process and not safe for several groups at once.
  setenv("TORCH_FR_BUFFER_SIZE", "0", 1);
  const Store store = c10::make_intrusive<c10d::HashStore>();
  std::mutex mutex;
  std::exception_ptr failure;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < world_size; ++rank) {
    ranks.emplace_back([&, rank] {
      try {
        at::set_num_threads(1);
        const std::unique_ptr<Collectives> collectives = join(store, rank);
        body(*collectives);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!failure) failure = std::current_exception();
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

void RunRanks(int world_size, const RankBody& body, const CollectivesOptions& options) {
  RunThreads(
      world_size,
      [&](Store store, int rank) {
        return MakeCollectives(std::move(store), rank, world_size, options);
      },
      body);
}

void RunRanksOverGloo(int world_size, const RankBody& body) {
  RunThreads(
      world_size,
      [&](Store store, int rank) {
        return MakeGlooCollectives(std::move(store), rank, world_size, std::chrono::seconds(30));
      },
      body);
}

}  // namespace diffmoe
