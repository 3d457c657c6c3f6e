#include <algorithm>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/output/views.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int kPageSize = 100;

absl::StatusOr<int> ListJobs(const Context& context, int limit) {
  ApiClient client(context.endpoint);
  v1::ListJobsResponse all;
  v1::ListJobsRequest request;
  do {
    request.set_page_size(std::min(limit - all.jobs_size(), kPageSize));
    ASSIGN_OR_RETURN(const v1::ListJobsResponse page, client.ListJobs(request));
    for (const v1::Job& job : page.jobs()) *all.add_jobs() = job;
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty() && all.jobs_size() < limit);
  return context.PrintMessage(all, [&] { return JobsTable(all, context.clock.UnixMs()); });
}

}  // namespace

void AddJobsCommand(CLI::App* app, Context* context) {
  auto limit = std::make_shared<int>(100);
  CLI::App* command = app->add_subcommand("jobs", "List jobs, newest first");
  command->add_option("--limit", *limit, "Most jobs to list")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->callback([context, limit] {
    context->action = [context, limit] { return ListJobs(*context, *limit); };
  });
}

}  // namespace diffmoe
