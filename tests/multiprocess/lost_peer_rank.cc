// A rank of lost_peer_test: gathers until a collective fails, then says so.
//
//   lost_peer_rank STORE_FILE RANK WORLD_SIZE TIMEOUT_MS gloo|shared [STOP_AT]
//
// Joins with a timeout of a minute; TIMEOUT_MS holds for what comes then. Stops itself (SIGSTOP) in
// front of the STOP_AT-th gather.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <torch/csrc/distributed/c10d/FileStore.hpp>

#include "core/parallel/gloo_collectives.h"
#include "core/parallel/shared_memory_collectives.h"

constexpr std::chrono::minutes kJoinTimeout(1);

int main(int argc, char** argv) {
  if (argc != 6 && argc != 7) return 2;
  const int rank = std::atoi(argv[2]), world_size = std::atoi(argv[3]);
  const int stop_at = argc == 7 ? std::atoi(argv[6]) : -1;
  const std::chrono::milliseconds timeout(std::atoi(argv[4]));
  const auto store = c10::make_intrusive<c10d::FileStore>(argv[1], world_size);
  std::unique_ptr<diffmoe::Collectives> collectives;
  if (std::string(argv[5]) == "gloo") {
    collectives = diffmoe::MakeGlooCollectives(store, rank, world_size, kJoinTimeout);
  } else {
    collectives = diffmoe::MakeCollectives(store, rank, world_size, {.timeout = kJoinTimeout});
  }
  collectives->SetTimeout(timeout);
  std::printf("rank %d over %s\n", rank, collectives->transport());
  std::fflush(stdout);
  at::Tensor out = at::empty({world_size, 100'000});
  const at::Tensor in = at::zeros({100'000});
  try {
    for (int i = 0;; ++i) {
      if (i == stop_at) std::raise(SIGSTOP);
      collectives->AllGather(out, in, "weight gather");
      if (i == 10) std::printf("running\n"), std::fflush(stdout);
    }
  } catch (const diffmoe::CollectiveError& error) {
    std::printf("%s\n", error.what());
    return 7;
  }
}
