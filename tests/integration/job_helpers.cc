#include "tests/integration/job_helpers.h"

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "diffmoe/v1/training_job.grpc.pb.h"
#include "tests/support/wait.h"

namespace diffmoe::test {

std::string SmokeJob() { return DIFFMOE_SOURCE_DIR "/deploy/jobs/fashion-smoke.yaml"; }

int64_t Int(const nlohmann::json& message, const std::string& key) {
  int64_t value = -1;
  if (!message.is_object() || !message.contains(key)) return -1;
  const nlohmann::json& field = message[key];
  if (field.is_number_integer()) return field.get<int64_t>();
  return field.is_string() && absl::SimpleAtoi(field.get<std::string>(), &value) ? value : -1;
}

absl::StatusOr<std::string> SubmitSmoke(Cluster& cluster,
                                        const std::vector<std::string>& overrides) {
  std::vector<std::string> arguments = {"submit", SmokeJob()};
  for (const std::string& assignment : overrides) {
    arguments.insert(arguments.end(), {"--set", assignment});
  }
  ASSIGN_OR_RETURN(const RunResult result, cluster.Cli(arguments));
  if (result.exit != ExitState{0, 0}) {
    return absl::InternalError(
        absl::StrCat("submit: exit code ", result.exit.exit_code, ": ", result.err));
  }
  return std::string(absl::StripAsciiWhitespace(result.out));
}

absl::StatusOr<nlohmann::json> AwaitJob(Cluster& cluster, const std::string& id,
                                        absl::Duration limit,
                                        absl::FunctionRef<bool(const nlohmann::json&)> condition) {
  absl::StatusOr<nlohmann::json> job;
  const bool held = WaitUntil(limit, [&] {
    job = cluster.CliJson({"job", "get", id});
    return job.ok() && condition(*job);
  });
  if (!held) {
    return absl::DeadlineExceededError(
        absl::StrCat("job ", id, " after ", absl::FormatDuration(limit), ": ",
                     job.ok() ? job->dump(1) : std::string(job.status().message())));
  }
  return job;
}

absl::StatusOr<nlohmann::json> AwaitState(Cluster& cluster, const std::string& id,
                                          const std::string& state, absl::Duration limit) {
  return AwaitJob(cluster, id, limit,
                  [&](const nlohmann::json& job) { return job.value("state", "") == state; });
}

v1::Job LookAtJob(Cluster& cluster, const std::string& id) {
  const auto stub = v1::TrainingJobService::NewStub(
      grpc::CreateChannel(cluster.grpc_address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
  v1::GetJobRequest request;
  request.set_name("jobs/" + id);
  v1::Job job;
  return stub->GetJob(&context, request, &job).ok() ? job : v1::Job();
}

bool RunsPast(const nlohmann::json& job, int64_t checkpoint_step) {
  return job.value("state", "") == "RUNNING" && job.contains("progress") &&
         Int(job, "latest_checkpoint_step") >= checkpoint_step &&
         Int(job["progress"], "step") > Int(job, "latest_checkpoint_step");
}

}  // namespace diffmoe::test
