#include "tests/benchmarks/collectives_bench.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <cstdlib>
#include <memory>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "core/parallel/gloo_collectives.h"
#include "core/parallel/gradient_tree.h"
#include "core/parallel/shared_memory_collectives.h"
#include "tests/benchmarks/timing.h"

namespace diffmoe::bench {
namespace {

constexpr int64_t kSmall = 1 << 13, kRows = 200'000, kWeights = 8'000'000;  // elements

Json Times(Collectives& collectives) {
  Json out{{"transport", collectives.transport()}};
  const auto exchange = [&](const char* name, int64_t elements, int repetitions) {
    const at::Tensor in = at::zeros({2, elements / 2});
    at::Tensor received = at::empty_like(in);
    out[name] = TimeOf(repetitions, [&] { collectives.AllToAll(received, in, name); });
  };
  exchange("latency_seconds", 2, 500);
  exchange("scores_seconds", kSmall, 200);
  exchange("token_rows_seconds", kRows, 50);
  const at::Tensor flat = at::zeros({kWeights}), mine = at::zeros({kWeights / 2});
  out["gradient_sum_seconds"] =
      TimeOf(10, [&] { ReduceScatterTree(collectives, flat, "gradient sum"); });
  at::Tensor all = at::empty({2, kWeights / 2});
  out["weight_gather_seconds"] =
      TimeOf(10, [&] { collectives.AllGather(all, mine, "weight gather"); });
  return out;
}

}  // namespace

Json MeasureCollectives() {
  setenv("TORCH_FR_BUFFER_SIZE", "0", 1);  // one recorder per process can't serve several groups
  Json out = Json::array();
  for (const bool sockets : {false, true}) {
    const auto store = c10::make_intrusive<c10d::HashStore>();
    Json times;
    const auto rank = [&](int r) {
      at::set_num_threads(1);
      const std::unique_ptr<Collectives> collectives =
          sockets ? MakeGlooCollectives(store, r, 2, std::chrono::seconds(60))
                  : MakeCollectives(store, r, 2);
      const Json mine = Times(*collectives);
      if (r == 0) times = mine;
    };
    std::thread other(rank, 1);
    rank(0);
    other.join();
    out.push_back(times);
  }
  return out;
}

}  // namespace diffmoe::bench
