// A sampling rank whose images take no time: what is left is the way of a request through the
// service. Started by a worker in place of diffmoe-rank.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "CLI/CLI.hpp"
#include "core/base/exit_code.h"
#include "core/base/log.h"
#include "core/base/mutex_checks.h"
#include "tests/unit/worker/rank/fake_executor.h"
#include "worker/rank/rank_link.h"
#include "worker/rank/sample_role.h"

namespace diffmoe {
namespace {

int Main(int argc, char** argv) {
  CLI::App app{"A sampling rank without a model, for the service benchmark."};
  std::string socket_path, group;
  int64_t epoch = 0;
  int rank = 0;
  app.add_option("--socket", socket_path)->required();
  app.add_option("--group", group)->required();
  app.add_option("--epoch", epoch)->required();
  app.add_option("--rank", rank)->required();
  CLI11_PARSE(app, argc, argv);
  auto link = RankLink::Connect(socket_path, group, epoch, rank);
  if (!link.ok()) {
    LogError("rank", "no connection to the worker", {{"error", link.status().message()}});
    return kExitUnavailable;
  }
  if ((*link)->assignment().role != RankRole::kSample) {
    (*link)->SayFailure(absl::UnimplementedError("this rank only samples"), 0);
    return kExitUsage;
  }
  FakeExecutor executor(0, 0);
  executor.record_calls = false;
  return RunSampleRole(**link, executor).ok() ? kExitUnavailable : kExitOk;
}

}  // namespace
}  // namespace diffmoe

int main(int argc, char** argv) {
  diffmoe::TurnOffMutexChecks();
  const int code = diffmoe::Main(argc, argv);
  std::fflush(nullptr);
  std::_Exit(code);
}
