#include "server/state/reasons.h"

#include "absl/strings/str_cat.h"

namespace diffmoe::server {

std::string NextCommand(const v1::Job& job) {
  const std::string& id = job.id();
  switch (job.reason_code()) {
    case v1::REASON_WAITS_FOR_SLOTS:
    case v1::REASON_WAITS_FOR_TURN:
      return absl::StrCat("diffmoe job set ", id, " --priority ", job.priority() + 10);
    case v1::REASON_CLUSTER_TOO_SMALL:
      return "diffmoe workers";
    case v1::REASON_WAITS_FOR_RESTART:
    case v1::REASON_SAME_ERROR_TWICE:
      return absl::StrCat("diffmoe job events ", id);
    case v1::REASON_PAUSED:
      return absl::StrCat("diffmoe job resume ", id);
    case v1::REASON_FINISHED:
      return absl::StrCat("diffmoe sample --job ", id, " --class 0 --n 4 --out samples.png");
    case v1::REASON_CANCELLED:
    case v1::REASON_RETRIES_USED_UP:
      return absl::StrCat("diffmoe job retry ", id);
    case v1::REASON_NOT_RETRYABLE:
      return job.latest_checkpoint_step() > 0
                 ? absl::StrCat("diffmoe job fork ", id, " --set FIELD=VALUE")
                 : "diffmoe submit JOB.yaml";
    default:
      return "";
  }
}

std::string CauseInWords(v1::EndCause cause) {
  switch (cause) {
    case v1::END_CAUSE_FINISHED:
      return "finished";
    case v1::END_CAUSE_USER:
      return "asked for by the user";
    case v1::END_CAUSE_PREEMPTED:
      return "made room for a more important job";
    case v1::END_CAUSE_RESIZED:
      return "goes on with another number of ranks";
    case v1::END_CAUSE_EXIT_CODE:
      return "a rank ended without a word";
    case v1::END_CAUSE_SIGNAL:
      return "a rank was killed";
    case v1::END_CAUSE_OUT_OF_MEMORY:
      return "out of memory";
    case v1::END_CAUSE_WORKER_LOST:
      return "a worker was lost";
    case v1::END_CAUSE_WORKER_STOPPED:
      return "a worker ended its ranks";
    case v1::END_CAUSE_HANG:
      return "a rank hung";
    case v1::END_CAUSE_NOT_A_NUMBER:
      return "the loss is not a number";
    case v1::END_CAUSE_BAD_INPUT:
      return "bad input";
    case v1::END_CAUSE_ERROR:
      return "a rank reported an error";
    case v1::END_CAUSE_SPAWN:
      return "a rank could not be started";
    case v1::END_CAUSE_PEER_LOST:
      return "a rank lost its peers";
    case v1::END_CAUSE_COORDINATOR_RESTART:
      return "a rank was gone after a restart of the coordinator";
    case v1::END_CAUSE_CORRUPT_CHECKPOINT:
      return "the checkpoint is damaged";
    default:
      return "unknown";
  }
}

}  // namespace diffmoe::server
