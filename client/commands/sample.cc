#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/api_status.h"
#include "client/commands/commands.h"
#include "client/names.h"
#include "client/output/text.h"
#include "client/output/views.h"
#include "client/sample_call.h"
#include "client/sample_images.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "core/spec/spec_fields.h"

namespace diffmoe {
namespace {

struct SampleOptions {
  std::string job;
  std::string classes;
  int count = 16;
  std::string seed;
  std::optional<int> steps;
  std::optional<double> guidance;
  std::string guidance_interval;
  std::string sampler;
  std::optional<double> eta;
  std::string out = "samples.png";
  std::string raw;
  int scale = 0;
};

// The labels that "all" stands for.
absl::StatusOr<std::vector<int32_t>> AllClasses(ApiClient* client, const std::string& checkpoint) {
  v1::GetJobRequest request;
  request.set_name(checkpoint.substr(0, checkpoint.find('/', checkpoint.find('/') + 1)));
  ASSIGN_OR_RETURN(const v1::Job job, client->GetJob(request));
  std::vector<int32_t> classes;
  for (int32_t label = 0; label < job.spec().model().classes(); ++label) classes.push_back(label);
  return classes;
}

absl::StatusOr<v1::SampleRequest> MakeRequest(ApiClient* client, const SampleOptions& options) {
  static constexpr int64_t kMaxImages = 1024;
  v1::SampleRequest request;
  ASSIGN_OR_RETURN(*request.mutable_checkpoint(), CheckpointNameFromReference(options.job));
  std::vector<int32_t> classes;
  if (options.classes == "all") {
    ASSIGN_OR_RETURN(classes, AllClasses(client, request.checkpoint()));
  } else {
    ASSIGN_OR_RETURN(classes, ParseClasses(options.classes));
  }
  const int64_t images = static_cast<int64_t>(classes.size()) * options.count;
  if (images > kMaxImages) {
    return UsageError(absl::StrCat("expected at most ", kMaxImages, " images, got ", classes.size(),
                                   " classes * ", options.count, " = ", images));
  }
  if (classes.size() > 1) classes = RepeatClasses(classes, options.count);
  for (int32_t label : classes) request.add_classes(label);
  request.set_count(static_cast<int32_t>(images));
  if (!options.seed.empty()) {
    uint64_t seed = 0;
    if (!absl::SimpleAtoi(options.seed, &seed)) {
      return UsageError(absl::StrCat("--seed: expected a whole number from 0 to ",
                                     std::numeric_limits<uint64_t>::max(), ", got ",
                                     QuoteForMessage(options.seed)));
    }
    request.set_seed(seed);
  }
  if (options.steps.has_value()) request.set_steps(*options.steps);
  if (options.guidance.has_value()) request.set_guidance(*options.guidance);
  if (!options.guidance_interval.empty()) {
    ASSIGN_OR_RETURN(*request.mutable_guidance_interval(),
                     ParseGuidanceInterval(options.guidance_interval));
  }
  request.set_sampler(options.sampler);
  if (options.eta.has_value()) request.set_eta(*options.eta);
  return request;
}

absl::StatusOr<int> Sample(const Context& context, const SampleOptions& options) {
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  ASSIGN_OR_RETURN(const v1::SampleRequest request, MakeRequest(&client, options));
  SampleImages images(request.count());
  const absl::StatusOr<v1::Receipt> receipt =
      RunSampleCall(context, &client, &interrupt, request, &images);
  if (!receipt.ok() && interrupt.triggered()) {
    context.err << "Interrupted; the images are not kept.\n" << std::flush;
    return kExitInterrupted;
  }
  RETURN_IF_ERROR(receipt.status());
  const int columns = request.classes_size() > 1 ? options.count : 0;
  RETURN_IF_ERROR(images.WriteGrid(options.out, columns, options.scale));
  context.err << "wrote " << options.out << "\n";
  if (!options.raw.empty()) {
    RETURN_IF_ERROR(images.WriteRaw(options.raw));
    context.err << "wrote " << options.raw << ": uint8 " << images.ShapeText() << "\n";
  }
  context.err << std::flush;
  return context.PrintMessage(*receipt, [&] { return ReceiptText(*receipt); });
}

}  // namespace

void AddSampleCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<SampleOptions>();
  CLI::App* command = app->add_subcommand("sample", "Make images from a job's checkpoint");
  command->add_option("--job", options->job, "Newest checkpoint of a job, or the one of a step")
      ->type_name("JOB[@step=N|@latest]")
      ->required();
  command
      ->add_option("--class,--classes", options->classes,
                   "Class of the images; several make a row each; all: every class")
      ->type_name("C|C,C,...|all")
      ->required();
  command->add_option("--n", options->count, "Images per class")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--seed", options->seed,
                      "Same seed, same images (default: drawn, and shown)");
  command
      ->add_option("--sampler", options->sampler,
                   "euler, heun, dopri5, euler_maruyama for a rectified flow (default: euler); "
                   "ddim, ancestral, dpmpp_2m for ddpm (default: ddim)")
      ->type_name("NAME");
  command->add_option("--steps", options->steps,
                      "Denoise steps, 1 to 1000; dopri5 chooses its own (default: 50)");
  command->add_option("--eta", options->eta, "Noise per step of ddim, 0 to 1 (default: 0)");
  command->add_option("--guidance", options->guidance,
                      "Classifier-free guidance scale, 0 to 100; 1 is off (default: 2)");
  command
      ->add_option("--guidance-interval", options->guidance_interval,
                   "Part of the way from noise (0) to image (1) in which guidance acts (default: "
                   "all of it)")
      ->type_name("LO,HI");
  command->add_option("--out", options->out, "PNG file for the grid of images")
      ->type_name("FILE")
      ->capture_default_str();
  command
      ->add_option("--raw", options->raw, "File for the pixels: uint8 [n, height, width, channels]")
      ->type_name("FILE");
  command
      ->add_option("--scale", options->scale,
                   "Side of a pixel in the grid (default: 2 for images up to 64)")
      ->check(CLI::Range(1, 16));
  command->callback([context, options] {
    context->action = [context, options] { return Sample(*context, *options); };
  });
}

}  // namespace diffmoe
