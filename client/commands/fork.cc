#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/api_status.h"
#include "client/commands/commands.h"
#include "client/names.h"
#include "client/output/text.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "core/spec/spec_yaml.h"

namespace diffmoe {
namespace {

struct ForkOptions {
  std::string id;
  std::string step = "latest";
  std::vector<std::string> overrides, labels;
  int priority = 0;
};

absl::StatusOr<int> Fork(const Context& context, const ForkOptions& options) {
  ApiClient client(context.endpoint);
  v1::ForkJobRequest request;
  ASSIGN_OR_RETURN(*request.mutable_checkpoint(), CheckpointName(options.id, options.step));
  if (!options.overrides.empty()) {
    v1::GetJobRequest get;
    ASSIGN_OR_RETURN(*get.mutable_name(), JobName(options.id));
    ASSIGN_OR_RETURN(const v1::Job source, client.GetJob(get));
    SpecDocument document;
    document.spec = source.spec();
    for (const std::string& assignment : options.overrides) OverrideField(assignment, &document);
    const std::vector<v1::FieldViolation> violations = CheckSpecDocument(document);
    if (!violations.empty()) {
      v1::ErrorDetails details;
      details.set_reason(v1::INVALID_SPEC);
      for (const v1::FieldViolation& violation : violations) *details.add_violations() = violation;
      absl::Status status = absl::InvalidArgumentError(
          absl::StrCat("the spec of ", options.id, " with the changes has faults"));
      SetErrorDetails(details, &status);
      return status;
    }
    *request.mutable_spec() = document.spec;
  }
  request.set_priority(options.priority);
  for (const std::string& text : options.labels) {
    ASSIGN_OR_RETURN(const auto label, ParseLabel(text));
    (*request.mutable_labels())[label.first] = label.second;
  }
  request.set_request_id(NewRequestId());
  ASSIGN_OR_RETURN(const v1::Job job, client.ForkJob(request));
  return context.PrintMessage(job, [&] { return absl::StrCat(CleanText(job.id()), "\n"); });
}

}  // namespace

void AddForkCommand(CLI::App* job, Context* context) {
  auto options = std::make_shared<ForkOptions>();
  CLI::App* command =
      job->add_subcommand("fork", "A new job that starts from a checkpoint of another one");
  command->add_option("ID", options->id, "Id of the other job")->required();
  command->add_option("STEP", options->step, "Step of the checkpoint, or latest")
      ->capture_default_str();
  command
      ->add_option("--set", options->overrides,
                   "Change a field of the spec: FIELD=VALUE, for example "
                   "optimizer.learning_rate=1e-4; repeatable. The model stays.")
      ->type_name("FIELD=VALUE")
      ->allow_extra_args(false);
  command
      ->add_option("--priority", options->priority,
                   "Larger goes first and may preempt smaller; -1000 to 1000")
      ->capture_default_str();
  command->add_option("--label", options->labels, "KEY=VALUE; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->callback([context, options] {
    context->action = [context, options] { return Fork(*context, *options); };
  });
}

}  // namespace diffmoe
