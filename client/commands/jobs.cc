#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/names.h"
#include "client/output/views.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int kPageSize = 100;

struct ListOptions {
  int limit = 100;
  std::vector<std::string> states, labels;
  std::string match;
};

absl::StatusOr<int> ListJobs(const Context& context, const ListOptions& options) {
  ApiClient client(context.endpoint);
  v1::ListJobsResponse all;
  v1::ListJobsRequest request;
  request.set_name_contains(options.match);
  for (const std::string& text : options.states) {
    ASSIGN_OR_RETURN(const v1::JobState state, ParseJobState(text));
    request.add_states(state);
  }
  for (const std::string& text : options.labels) {
    ASSIGN_OR_RETURN(const auto label,
                     ParseLabel(absl::StrContains(text, '=') ? text : text + "="));
    (*request.mutable_labels())[label.first] = label.second;
  }
  const int limit = options.limit;
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
  auto options = std::make_shared<ListOptions>();
  CLI::App* command = app->add_subcommand("jobs", "List jobs, newest first");
  command->add_option("--limit", options->limit, "Most jobs to list")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--state", options->states, "Only jobs in this state; repeatable")
      ->allow_extra_args(false);
  command
      ->add_option("--label", options->labels,
                   "Only jobs with this label: KEY=VALUE, or KEY for any value; repeatable")
      ->allow_extra_args(false);
  command->add_option("--match", options->match, "Only jobs whose id contains this text");
  command->callback([context, options] {
    context->action = [context, options] { return ListJobs(*context, *options); };
  });
}

}  // namespace diffmoe
