#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/api_status.h"
#include "client/commands/commands.h"
#include "client/follow.h"
#include "client/names.h"
#include "client/output/text.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "core/spec/spec_file.h"
#include "core/spec/spec_yaml.h"

namespace diffmoe {
namespace {

struct SubmitOptions {
  std::string file;
  std::vector<std::string> overrides;
  bool follow = false;
  bool validate_only = false;
  std::string request_id;
  int priority = 0;
  std::vector<std::string> labels;
};

absl::Status SpecError(const std::string& file, std::vector<v1::FieldViolation> violations) {
  absl::Status status = absl::InvalidArgumentError(
      absl::StrCat(violations.size(), violations.size() == 1 ? " fault in " : " faults in ", file));
  v1::ErrorDetails details;
  details.set_reason(v1::INVALID_SPEC);
  for (v1::FieldViolation& violation : violations) {
    *details.add_violations() = std::move(violation);
  }
  SetErrorDetails(details, &status);
  SetErrorFile(file, &status);
  return status;
}

// Gives the coordinator's violations their lines in the file.
absl::Status WithLines(absl::Status status, const std::string& file, const SpecDocument& document) {
  v1::ErrorDetails details = GetErrorDetails(status);
  if (details.violations().empty()) return status;
  std::vector<v1::FieldViolation> violations(details.violations().begin(),
                                             details.violations().end());
  AddLines(document, &violations);
  for (size_t i = 0; i < violations.size(); ++i) {
    *details.mutable_violations(static_cast<int>(i)) = violations[i];
  }
  SetErrorDetails(details, &status);
  SetErrorFile(file, &status);
  return status;
}

absl::StatusOr<int> Submit(const Context& context, const SubmitOptions& options) {
  ASSIGN_OR_RETURN(const std::string text, ReadSpecFile(options.file));
  SpecDocument document = ParseSpecYaml(text);
  for (const std::string& assignment : options.overrides) OverrideField(assignment, &document);
  std::vector<v1::FieldViolation> violations = CheckSpecDocument(document);
  if (!violations.empty()) return SpecError(options.file, std::move(violations));

  std::unique_ptr<Interrupt> interrupt;
  if (options.follow) interrupt = std::make_unique<Interrupt>();
  ApiClient client(context.endpoint);
  v1::SubmitJobRequest request;
  *request.mutable_spec() = document.spec;
  request.set_request_id(options.request_id.empty() ? NewRequestId() : options.request_id);
  request.set_validate_only(options.validate_only);
  request.set_priority(options.priority);
  for (const std::string& assignment : options.labels) {
    ASSIGN_OR_RETURN(const auto label, ParseLabel(assignment));
    (*request.mutable_labels())[label.first] = label.second;
  }
  const absl::StatusOr<v1::Job> job = client.SubmitJob(request);
  if (!job.ok()) return WithLines(job.status(), options.file, document);
  if (options.validate_only) {
    context.out << options.file << " is valid\n" << std::flush;
    return kExitOk;
  }
  if (context.format != OutputFormat::kTable) return context.PrintMessage(*job, {});
  // The id alone, so that a script can take it.
  const std::string id = CleanText(job->id());
  context.out << id << "\n" << std::flush;
  if (options.follow) return FollowJob(context, &client, interrupt.get(), job->name());
  const std::string program = absl::StrCat("diffmoe ", HintFlags(context));
  context.err << "Follow it: " << program << "watch " << id << "\n" << std::flush;
  return kExitOk;
}

}  // namespace

void AddSubmitCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<SubmitOptions>();
  CLI::App* command = app->add_subcommand("submit", "Submit a training job from a YAML file");
  command->add_option("FILE", options->file, "The spec; deploy/jobs has ready ones")->required();
  command
      ->add_option("--set", options->overrides,
                   "Set a field over the file: FIELD=VALUE, for example train.steps=50; repeatable")
      ->type_name("FIELD=VALUE")
      ->allow_extra_args(false);
  command->add_flag("--follow,!--no-follow", options->follow,
                    "Show progress until the job ends (default: print the id and return)");
  command->add_flag("--validate-only", options->validate_only,
                    "Check the spec here and at the coordinator; submit nothing");
  command
      ->add_option("--priority", options->priority,
                   "Larger goes first and may preempt smaller; -1000 to 1000")
      ->capture_default_str();
  command->add_option("--label", options->labels, "KEY=VALUE to find the job by; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--request-id", options->request_id,
                      "Submitting again with the same id gives the same job (default: random)");
  command->callback([context, options] {
    context->action = [context, options] { return Submit(*context, *options); };
  });
}

}  // namespace diffmoe
