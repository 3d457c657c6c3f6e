#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/names.h"
#include "client/output/text.h"
#include "client/output/views.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int kEventPageSize = 1000;
// A bound on the events that one command shows.
constexpr int kMaxEvents = 100'000;

absl::StatusOr<v1::Job> FetchJob(ApiClient* client, const std::string& id) {
  v1::GetJobRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), JobName(id));
  return client->GetJob(request);
}

absl::StatusOr<v1::ListJobEventsResponse> FetchEvents(ApiClient* client, const std::string& id) {
  v1::ListJobEventsRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), JobName(id));
  request.set_page_size(kEventPageSize);
  v1::ListJobEventsResponse all;
  while (all.events_size() < kMaxEvents) {
    ASSIGN_OR_RETURN(const v1::ListJobEventsResponse page, client->ListJobEvents(request));
    if (page.events().empty()) break;
    for (const v1::JobEvent& event : page.events()) *all.add_events() = event;
    request.set_after_sequence(page.events(page.events_size() - 1).sequence());
  }
  return all;
}

absl::StatusOr<int> GetJob(const Context& context, const std::string& id) {
  ApiClient client(context.endpoint);
  ASSIGN_OR_RETURN(const v1::Job job, FetchJob(&client, id));
  return context.PrintMessage(job, [&] { return JobText(job, context.clock.UnixMs()); });
}

absl::StatusOr<int> ExplainJob(const Context& context, const std::string& id) {
  ApiClient client(context.endpoint);
  ASSIGN_OR_RETURN(const v1::Job job, FetchJob(&client, id));
  ASSIGN_OR_RETURN(const v1::ListJobEventsResponse events, FetchEvents(&client, id));
  return context.PrintMessage(job, [&] { return WhyText(job, events); });
}

absl::StatusOr<int> ListEvents(const Context& context, const std::string& id) {
  ApiClient client(context.endpoint);
  ASSIGN_OR_RETURN(const v1::ListJobEventsResponse events, FetchEvents(&client, id));
  return context.PrintMessage(events, [&] { return EventsTable(events); });
}

absl::StatusOr<int> PrintState(const Context& context, const v1::Job& job) {
  return context.PrintMessage(job, [&] {
    return absl::StrCat(CleanText(job.id()), " is ", v1::JobState_Name(job.state()), "\n");
  });
}

// A request that has nothing but the job's name.
template <typename Request>
std::function<absl::StatusOr<int>(const Context&, const std::string&)> Change(
    absl::StatusOr<v1::Job> (ApiClient::*method)(const Request&)) {
  return [method](const Context& context, const std::string& id) -> absl::StatusOr<int> {
    ApiClient client(context.endpoint);
    Request request;
    ASSIGN_OR_RETURN(*request.mutable_name(), JobName(id));
    request.set_request_id(NewRequestId());
    ASSIGN_OR_RETURN(const v1::Job job, (client.*method)(request));
    return PrintState(context, job);
  };
}

struct SetOptions {
  std::string id;
  std::optional<int> priority;
  std::vector<std::string> labels, removed;
};

absl::StatusOr<int> SetJob(const Context& context, const SetOptions& options) {
  ApiClient client(context.endpoint);
  v1::UpdateJobRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), JobName(options.id));
  if (options.priority) request.set_priority(*options.priority);
  for (const std::string& text : options.labels) {
    ASSIGN_OR_RETURN(const auto label, ParseLabel(text));
    (*request.mutable_set_labels())[label.first] = label.second;
  }
  for (const std::string& key : options.removed) request.add_remove_labels(key);
  request.set_request_id(NewRequestId());
  ASSIGN_OR_RETURN(const v1::Job job, client.UpdateJob(request));
  return PrintState(context, job);
}

void AddSetCommand(CLI::App* parent, Context* context) {
  auto options = std::make_shared<SetOptions>();
  CLI::App* command = parent->add_subcommand("set", "Change a job's priority or labels");
  command->add_option("ID", options->id, "Id of the job")->required();
  command->add_option("--priority", options->priority,
                      "Larger goes first and may preempt smaller; -1000 to 1000");
  command->add_option("--label", options->labels, "KEY=VALUE; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--remove-label", options->removed, "Key of a label to remove; repeatable")
      ->allow_extra_args(false);
  command->callback([context, options] {
    context->action = [context, options] { return SetJob(*context, *options); };
  });
}

void AddAction(CLI::App* parent, Context* context, const char* name, const char* help,
               std::function<absl::StatusOr<int>(const Context&, const std::string&)> run) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = parent->add_subcommand(name, help);
  command->add_option("ID", *id, "Id of the job")->required();
  command->callback(
      [context, id, run] { context->action = [context, id, run] { return run(*context, *id); }; });
}

}  // namespace

void AddJobCommand(CLI::App* app, Context* context) {
  CLI::App* command =
      app->add_subcommand("job", "Look at one job, stop it, go on with it, or fork it");
  command->require_subcommand(1);
  AddAction(command, context, "get", "State, progress, layers and attempts of a job", GetJob);
  AddAction(command, context, "why", "Why a job waits, restarted, or failed", ExplainJob);
  AddAction(command, context, "events", "The history of a job", ListEvents);
  AddAction(command, context, "cancel", "Stop a job for good; its checkpoints stay",
            Change(&ApiClient::CancelJob));
  AddAction(command, context, "pause", "Save a checkpoint and give the slots back",
            Change(&ApiClient::PauseJob));
  AddAction(command, context, "resume", "Queue a paused job again", Change(&ApiClient::ResumeJob));
  AddAction(command, context, "retry",
            "A new job that goes on where a failed or cancelled one ended",
            Change(&ApiClient::RetryJob));
  AddForkCommand(command, context);
  AddSetCommand(command, context);
}

}  // namespace diffmoe
