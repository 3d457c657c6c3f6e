#include "tests/multiprocess/rank_threads.h"

#include <ATen/Parallel.h>

#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <vector>

#include "core/parallel/gloo_collectives.h"

namespace diffmoe {

void RunRanks(int world_size, const std::function<void(Collectives&)>& body) {
  if (world_size == 1) {
    const auto collectives = MakeLocalCollectives();
    body(*collectives);
    return;
  }
  // c10d's flight recorder is one object per process and not safe for several groups at once.
  setenv("TORCH_FR_BUFFER_SIZE", "0", 1);
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::mutex mutex;
  std::exception_ptr failure;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < world_size; ++rank) {
    ranks.emplace_back([&, rank] {
      try {
        at::set_num_threads(1);
        const auto collectives =
            MakeGlooCollectives(store, rank, world_size, std::chrono::seconds(30));
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

}  // namespace diffmoe
