#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/live_screen.h"
#include "client/output/views.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int kJobs = 20;

struct TopOptions {
  double interval_seconds = 2;
  int frames = 0;
};

std::string Headline(const v1::ListWorkersResponse& workers, const v1::ListJobsResponse& jobs) {
  int slots = 0, busy = 0, silent = 0, running = 0, waiting = 0;
  for (const v1::Worker& worker : workers.workers()) {
    if (worker.state() != v1::CONNECTED) {
      ++silent;
      continue;
    }
    slots += worker.slots_size();
    for (const v1::Slot& slot : worker.slots()) busy += slot.used_by().empty() ? 0 : 1;
  }
  for (const v1::Job& job : jobs.jobs()) {
    if (job.state() == v1::RUNNING) ++running;
    if (job.state() == v1::QUEUED) ++waiting;
  }
  return absl::StrCat(workers.workers_size() - silent, " workers, ", busy, " of ", slots,
                      " slots in use", silent > 0 ? absl::StrCat(", ", silent, " silent") : "",
                      "; of the newest ", jobs.jobs_size(), " jobs ", running, " run and ", waiting,
                      " wait\n\n");
}

absl::StatusOr<std::string> Frame(const Context& context, ApiClient* client) {
  v1::ListJobsRequest request;
  request.set_page_size(kJobs);
  ASSIGN_OR_RETURN(const v1::ListJobsResponse jobs, client->ListJobs(request));
  ASSIGN_OR_RETURN(const v1::ListWorkersResponse workers, client->ListWorkers({}));
  const int64_t now_ms = context.clock.UnixMs();
  return absl::StrCat(Headline(workers, jobs), JobsTable(jobs, now_ms), "\n",
                      WorkersTable(workers, now_ms));
}

absl::StatusOr<int> Top(const Context& context, const TopOptions& options) {
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  return RunLiveScreen(context, &interrupt, absl::Seconds(options.interval_seconds), options.frames,
                       [&](bool*) { return Frame(context, &client); });
}

}  // namespace

void AddTopCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<TopOptions>();
  CLI::App* command = app->add_subcommand("top", "Jobs, workers and slots, again and again");
  command->add_option("--interval", options->interval_seconds, "Seconds between two looks")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  command
      ->add_option("--frames", options->frames, "Ends after so many looks (default: Ctrl-C ends)")
      ->check(CLI::Range(1, 1'000'000));
  command->callback([context, options] {
    context->action = [context, options] { return Top(*context, *options); };
  });
}

}  // namespace diffmoe
