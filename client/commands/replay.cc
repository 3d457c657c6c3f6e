#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/commands/sample_flags.h"
#include "client/names.h"
#include "client/replay/comparison.h"
#include "client/replay/receipt_file.h"
#include "client/sample_call.h"
#include "client/sample_images.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

struct ReplayOptions {
  std::string receipt;
  std::string out;
  std::string raw;
  std::string deadline;
};

absl::StatusOr<int> Replay(const Context& context, const ReplayOptions& options) {
  Interrupt interrupt;
  SampleCallOptions call;
  call.wait = true;
  if (!options.deadline.empty()) {
    ASSIGN_OR_RETURN(call.limit, ParsePositiveDuration("--deadline", options.deadline));
  }
  ASSIGN_OR_RETURN(const v1::Receipt old_receipt, ReadReceipt(options.receipt));
  v1::SampleRequest request = RequestOfReceipt(old_receipt);
  request.set_user(LoginName());
  ApiClient client(context.endpoint);
  SampleImages images(request.count());
  const absl::StatusOr<v1::Receipt> receipt =
      RunSampleCall(context, &client, &interrupt, request, &images, call);
  if (!receipt.ok() && interrupt.triggered()) return kExitInterrupted;
  RETURN_IF_ERROR(receipt.status());
  if (!options.out.empty()) RETURN_IF_ERROR(images.WriteGrid(options.out, 0, 0));
  if (!options.raw.empty()) RETURN_IF_ERROR(images.WriteRaw(options.raw));
  ASSIGN_OR_RETURN(const std::vector<std::string> hashes, images.Hashes());
  const ReplayComparison comparison = CompareReplay(old_receipt, *receipt, hashes);
  context.out << (context.format == OutputFormat::kTable
                      ? ComparisonText(comparison)
                      : JsonText(ComparisonJson(comparison), context.format))
              << std::flush;
  return comparison.same() ? kExitOk : kExitCorrupt;
}

}  // namespace

void AddReplayCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<ReplayOptions>();
  CLI::App* command =
      app->add_subcommand("replay", "Make the images of a receipt again and compare every bit");
  command
      ->add_option("RECEIPT", options->receipt, "File of `sample --receipt`; - is standard input")
      ->required();
  command->add_option("--out", options->out, "PNG file for the grid of images")->type_name("FILE");
  command
      ->add_option("--raw", options->raw, "File for the pixels: uint8 [n, height, width, channels]")
      ->type_name("FILE");
  command->add_option("--deadline", options->deadline, "Time for the whole request")
      ->type_name("DURATION");
  command->callback([context, options] {
    context->action = [context, options] { return Replay(*context, *options); };
  });
}

}  // namespace diffmoe
