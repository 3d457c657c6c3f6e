#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/api_status.h"
#include "client/commands/commands.h"
#include "client/commands/sample_flags.h"
#include "client/names.h"
#include "client/output/text.h"
#include "client/output/views.h"
#include "client/preview_grid.h"
#include "client/sample_call.h"
#include "client/sample_images.h"
#include "core/base/atomic_file.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int64_t kMaxImages = 1024;

struct SampleOptions {
  SampleFlags flags;
  int count = 16;
  uint32_t first_image = 0;
  bool fast = false;
  std::string request_id;
  std::string deadline;
  bool wait = true;
  std::string preview;
  int preview_every = 10;
  std::string out = "samples.png";
  std::string raw;
  std::string png_dir;
  std::string receipt;
  int scale = 0;
};

absl::StatusOr<v1::SampleRequest> MakeRequest(ApiClient* client, const SampleOptions& options) {
  ASSIGN_OR_RETURN(v1::SampleRequest request, RequestFromFlags(options.flags));
  ASSIGN_OR_RETURN(std::vector<int32_t> classes,
                   ClassesFromFlag(client, options.flags.classes, request.checkpoint()));
  const int64_t images = static_cast<int64_t>(classes.size()) * options.count;
  if (images > kMaxImages) {
    return UsageError(absl::StrCat("expected at most ", kMaxImages, " images, got ", classes.size(),
                                   " classes * ", options.count, " = ", images));
  }
  if (classes.size() > 1) classes = RepeatClasses(classes, options.count);
  for (int32_t label : classes) request.add_classes(label);
  request.set_count(static_cast<int32_t>(images));
  request.set_first_image(options.first_image);
  request.set_request_id(options.request_id);
  if (options.fast) request.set_numeric_mode(v1::FAST);
  if (!options.preview.empty()) request.set_preview_every(options.preview_every);
  if (!options.png_dir.empty()) request.set_encoding(v1::PNG);
  return request;
}

absl::Status WriteFiles(const Context& context, const SampleOptions& options, int columns,
                        const SampleImages& images, const v1::Receipt& receipt) {
  if (!options.png_dir.empty()) {
    RETURN_IF_ERROR(images.WritePngFiles(options.png_dir));
    context.err << "wrote " << images.done() << " PNG files to " << options.png_dir << "\n";
  } else {
    RETURN_IF_ERROR(images.WriteGrid(options.out, columns, options.scale));
    context.err << "wrote " << options.out << "\n";
  }
  if (!options.raw.empty()) {
    RETURN_IF_ERROR(images.WriteRaw(options.raw));
    context.err << "wrote " << options.raw << ": uint8 " << images.ShapeText() << "\n";
  }
  if (!options.receipt.empty()) {
    ASSIGN_OR_RETURN(const std::string text, MessageText(receipt, OutputFormat::kJson));
    RETURN_IF_ERROR(WriteFileAtomically(options.receipt, text));
    context.err << "wrote " << options.receipt << "\n";
  }
  context.err << std::flush;
  return absl::OkStatus();
}

absl::StatusOr<int> Sample(const Context& context, const SampleOptions& options) {
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  SampleCallOptions call;
  call.wait = options.wait;
  if (!options.deadline.empty()) {
    ASSIGN_OR_RETURN(call.limit, ParsePositiveDuration("--deadline", options.deadline));
  }
  ASSIGN_OR_RETURN(const v1::SampleRequest request, MakeRequest(&client, options));
  const int columns = request.classes_size() > 1 ? options.count : 0;
  std::optional<PreviewGrid> previews;
  if (!options.preview.empty()) {
    previews.emplace(options.preview, request.count(), columns, options.scale, &context.clock);
    call.previews = &*previews;
  }
  SampleImages images(request.count(), request.encoding() == v1::PNG ? v1::PNG : v1::RAW);
  const absl::StatusOr<v1::Receipt> receipt =
      RunSampleCall(context, &client, &interrupt, request, &images, call);
  if (!receipt.ok() && interrupt.triggered()) {
    context.err << "Interrupted; the images are not kept.\n" << std::flush;
    return kExitInterrupted;
  }
  RETURN_IF_ERROR(receipt.status());
  RETURN_IF_ERROR(WriteFiles(context, options, columns, images, *receipt));
  return context.PrintMessage(*receipt, [&] { return ReceiptText(*receipt); });
}

void AddRequestFlags(CLI::App* command, SampleOptions* options) {
  AddSampleFlags(command, &options->flags);
  command
      ->add_option("--class,--classes", options->flags.classes,
                   "Class of the images; several make a row each; all: every class")
      ->type_name("C|C,C,...|all")
      ->required();
  command->add_option("--n", options->count, "Images per class")
      ->check(CLI::Range(1, static_cast<int>(kMaxImages)))
      ->capture_default_str();
  command->add_option("--first-image", options->first_image,
                      "Number of the first image: its noise is keyed by seed and number");
  command->add_flag("--fast", options->fast,
                    "Bits may differ by rounding with what else is sampled at the time");
  command->add_option("--request-id", options->request_id,
                      "At most 64 characters; the same id with the same request makes the same "
                      "images");
  command
      ->add_option("--deadline", options->deadline,
                   "Time for the whole request, waiting included (default: none)")
      ->type_name("DURATION");
  command->add_flag("--wait,!--no-wait", options->wait,
                    "Try again when the queue is full, as long as the deadline allows (default: "
                    "yes)");
}

void AddOutputFlags(CLI::App* command, SampleOptions* options) {
  CLI::Option* out = command->add_option("--out", options->out, "PNG file for the grid of images")
                         ->type_name("FILE")
                         ->capture_default_str();
  CLI::Option* raw = command
                         ->add_option("--raw", options->raw,
                                      "File for the pixels: uint8 [n, height, width, channels]")
                         ->type_name("FILE");
  command
      ->add_option("--png-dir", options->png_dir,
                   "Directory for one PNG file per image, instead of the grid")
      ->type_name("DIR")
      ->excludes(out)
      ->excludes(raw);
  command->add_option("--receipt", options->receipt, "File for the receipt, as JSON")
      ->type_name("FILE");
  command
      ->add_option("--scale", options->scale,
                   "Side of a pixel in the grid (default: 2 for images up to 64)")
      ->check(CLI::Range(1, 16));
  CLI::Option* preview =
      command
          ->add_option("--preview", options->preview,
                       "PNG file with the newest previews, replaced while the request runs")
          ->type_name("FILE");
  command
      ->add_option("--preview-every", options->preview_every, "Denoise steps between two previews")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->needs(preview);
}

}  // namespace

void AddSampleCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<SampleOptions>();
  CLI::App* command = app->add_subcommand("sample", "Make images from a job's checkpoint");
  AddRequestFlags(command, options.get());
  AddOutputFlags(command, options.get());
  command->callback([context, options] {
    context->action = [context, options] { return Sample(*context, *options); };
  });
}

}  // namespace diffmoe
