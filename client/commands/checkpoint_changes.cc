#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/names.h"
#include "client/output/progress.h"
#include "client/output/text.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

struct CheckpointArgument {
  std::string id, step;
};

absl::StatusOr<int> SetPinned(const Context& context, const CheckpointArgument& checkpoint,
                              bool pinned) {
  ApiClient client(context.endpoint);
  v1::UpdateCheckpointRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), CheckpointName(checkpoint.id, checkpoint.step));
  request.set_pinned(pinned);
  request.set_request_id(NewRequestId());
  ASSIGN_OR_RETURN(const v1::Checkpoint changed, client.UpdateCheckpoint(request));
  return context.PrintMessage(changed, [&] {
    return absl::StrCat(CleanText(changed.name()), pinned ? " is pinned\n" : " is not pinned\n");
  });
}

absl::StatusOr<int> Delete(const Context& context, const CheckpointArgument& checkpoint) {
  ApiClient client(context.endpoint);
  v1::DeleteCheckpointRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), CheckpointName(checkpoint.id, checkpoint.step));
  request.set_request_id(NewRequestId());
  RETURN_IF_ERROR(client.DeleteCheckpoint(request));
  context.out << CleanText(request.name()) << " is deleted\n" << std::flush;
  return kExitOk;
}

absl::StatusOr<int> Verify(const Context& context, const CheckpointArgument& checkpoint) {
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  v1::VerifyCheckpointRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), CheckpointName(checkpoint.id, checkpoint.step));
  ProgressPrinter printer(&context.err, &context.clock, context.progress);
  v1::VerifyCheckpointResponse last;
  const absl::Status status = client.VerifyCheckpoint(
      request, &interrupt, [&](const v1::VerifyCheckpointResponse& progress) {
        last = progress;
        printer.Set(absl::StrCat("verified ", BytesText(progress.bytes()), " of ",
                                 BytesText(progress.total_bytes())));
        return absl::OkStatus();
      });
  printer.Finish();
  RETURN_IF_ERROR(status);
  if (!last.damage().empty()) {
    return absl::DataLossError(
        absl::StrCat(request.name(), " is damaged and not used any more: ", last.damage()));
  }
  return context.PrintMessage(last, [&] {
    return absl::StrCat(CleanText(request.name()), " is good: ", BytesText(last.bytes()),
                        " verified\n");
  });
}

template <typename Run>
void AddChange(CLI::App* ckpt, Context* context, const char* name, const char* help, Run run) {
  auto checkpoint = std::make_shared<CheckpointArgument>();
  CLI::App* command = ckpt->add_subcommand(name, help);
  command->add_option("ID", checkpoint->id, "Id of the job")->required();
  command->add_option("STEP", checkpoint->step, "Step of the checkpoint, or latest")->required();
  command->callback([context, checkpoint, run] {
    context->action = [context, checkpoint, run] { return run(*context, *checkpoint); };
  });
}

}  // namespace

void AddCheckpointChanges(CLI::App* ckpt, Context* context) {
  AddChange(ckpt, context, "pin", "Keep a checkpoint whatever the retention says",
            [](const Context& c, const CheckpointArgument& at) { return SetPinned(c, at, true); });
  AddChange(ckpt, context, "unpin", "Leave a checkpoint to the retention again",
            [](const Context& c, const CheckpointArgument& at) { return SetPinned(c, at, false); });
  AddChange(ckpt, context, "rm", "Delete a checkpoint that nothing needs", Delete);
  AddChange(ckpt, context, "verify", "Read every byte of a checkpoint against its checksums",
            Verify);
}

}  // namespace diffmoe
