#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/api_client.h"
#include "client/api_status.h"
#include "client/commands/commands.h"
#include "client/commands/sample_flags.h"
#include "client/names.h"
#include "client/output/progress.h"
#include "client/output/table.h"
#include "client/output/text.h"
#include "client/set/set_directory.h"
#include "client/set/set_maker.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "core/spec/spec_fields.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

struct SetOptions {
  SampleFlags flags;
  int64_t count = 0;
  std::string out;
  int64_t shard_images = 1000;
  int in_flight = 4;
  int request_images = 32;
  std::string patience = "10m";
};

// Bytes that aren't UTF-8 are replaced in the one text and left out in the other.
bool IsUtf8(const std::string& text) {
  using Json = nlohmann::ordered_json;
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace) ==
         Json(text).dump(-1, ' ', false, Json::error_handler_t::ignore);
}

absl::StatusOr<SetSpec> MakeSpec(ApiClient* client, const SetOptions& options) {
  SetSpec spec;
  ASSIGN_OR_RETURN(spec.request, RequestFromFlags(options.flags));
  // It stands in set.json before the coordinator sees it.
  if (!IsUtf8(spec.request.sampler())) {
    return UsageError(absl::StrCat("--sampler: expected UTF-8 text, got ",
                                   QuoteForMessage(spec.request.sampler())));
  }
  ASSIGN_OR_RETURN(spec.classes,
                   ClassesFromFlag(client, options.flags.classes, spec.request.checkpoint()));
  // Whoever asks, the set is the same.
  spec.request.clear_user();
  spec.count = options.count;
  spec.shard_images = options.shard_images;
  return spec;
}

// The name of the checkpoint that exists now.
absl::StatusOr<std::string> ResolveCheckpoint(ApiClient* client, const std::string& asked) {
  v1::GetCheckpointRequest request;
  request.set_name(JobOfCheckpoint(asked) == asked ? absl::StrCat(asked, "/checkpoints/latest")
                                                   : asked);
  ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, client->GetCheckpoint(request));
  return checkpoint.name();
}

absl::Status BeginOrGoOn(const Context& context, ApiClient* client, SetSpec spec,
                         SetDirectory* directory) {
  if (!directory->exists()) {
    SetManifest manifest;
    if (!spec.request.has_seed()) {
      std::random_device device;
      spec.request.set_seed((uint64_t{device()} << 32) | device());
    }
    ASSIGN_OR_RETURN(manifest.checkpoint, ResolveCheckpoint(client, spec.request.checkpoint()));
    manifest.spec = std::move(spec);
    context.err << "a new set from " << CleanText(manifest.checkpoint) << "\n" << std::flush;
    return directory->Begin(manifest);
  }
  RETURN_IF_ERROR(CheckSameSpec(directory->manifest().spec, spec, directory->path()));
  for (const std::string& line : directory->DropDamagedShards()) {
    context.err << CleanText(line) << "; the shard is made again\n";
  }
  const SetManifest manifest = directory->manifest();
  context.err << "going on with " << manifest.ImagesDone() << " of " << manifest.spec.count
              << " images from " << CleanText(manifest.checkpoint) << "\n"
              << std::flush;
  return absl::OkStatus();
}

std::string ProgressLine(int64_t images, int64_t at_start, int64_t count, double seconds) {
  std::string line =
      absl::StrCat(BarText(static_cast<double>(images) / static_cast<double>(count), 20), "  ",
                   images, "/", count, " images");
  if (images <= at_start || seconds <= 0) return line;
  const double rate = static_cast<double>(images - at_start) / seconds;
  absl::StrAppendFormat(&line, "  %.3g images/s  %s left", rate,
                        DurationText(static_cast<double>(count - images) / rate));
  return line;
}

absl::Status MakeSet(const Context& context, ApiClient* client, Interrupt* interrupt,
                     const SetOptions& options, absl::Duration patience, SetDirectory* directory) {
  const int64_t at_start = directory->manifest().ImagesDone();
  const int64_t start_ms = context.clock.MonotonicMs();
  ProgressPrinter printer(&context.err, &context.clock, context.progress);
  SetMakerOptions maker_options;
  maker_options.in_flight = options.in_flight;
  maker_options.request_images = options.request_images;
  maker_options.user = options.flags.user.empty() ? LoginName() : options.flags.user;
  maker_options.patience = patience;
  maker_options.on_note = [&printer](const std::string& line) { printer.Print(line); };
  maker_options.on_progress = [&](int64_t images) {
    const double seconds = static_cast<double>(context.clock.MonotonicMs() - start_ms) * 1e-3;
    printer.Set(ProgressLine(images, at_start, options.count, seconds));
  };
  SetMaker maker(client, interrupt, directory, maker_options);
  const absl::Status status = maker.Run();
  printer.Finish();
  return status;
}

std::string SetText(const SetManifest& manifest, const std::string& path) {
  std::vector<std::pair<std::string, std::string>> pairs = {
      {"set", path},
      {"checkpoint", manifest.checkpoint},
      {"seed", absl::StrCat(manifest.spec.request.seed())},
      {"images", absl::StrCat(manifest.ImagesDone())},
      {"shards", absl::StrCat(manifest.shards.size())}};
  if (manifest.origin.has_value()) {
    pairs.emplace_back("size", absl::StrCat(manifest.origin->height, "x", manifest.origin->width,
                                            "x", manifest.origin->channels));
    pairs.emplace_back("weights", manifest.origin->weights_hash);
    pairs.emplace_back("thresholds", manifest.origin->thresholds_hash);
  }
  return KeyValueText(pairs);
}

absl::StatusOr<int> SampleSet(const Context& context, const SetOptions& options) {
  Interrupt interrupt;
  ASSIGN_OR_RETURN(const absl::Duration patience,
                   ParsePositiveDuration("--patience", options.patience));
  ApiClient client(context.endpoint);
  ASSIGN_OR_RETURN(SetSpec spec, MakeSpec(&client, options));
  ASSIGN_OR_RETURN(const std::unique_ptr<SetDirectory> directory, SetDirectory::Open(options.out));
  RETURN_IF_ERROR(BeginOrGoOn(context, &client, std::move(spec), directory.get()));
  const absl::Status status =
      MakeSet(context, &client, &interrupt, options, patience, directory.get());
  const SetManifest manifest = directory->manifest();
  if (!status.ok()) {
    context.err << (interrupt.triggered() ? "Interrupted; " : "") << manifest.ImagesDone() << " of "
                << manifest.spec.count
                << " images are kept in whole shards; the same command goes on from there.\n"
                << std::flush;
    if (interrupt.triggered()) return kExitInterrupted;
    return status;
  }
  ASSIGN_OR_RETURN(const nlohmann::ordered_json json, ManifestJson(manifest));
  context.out << (context.format == OutputFormat::kTable ? SetText(manifest, options.out)
                                                         : JsonText(json, context.format))
              << std::flush;
  return kExitOk;
}

}  // namespace

void AddSampleSetCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<SetOptions>();
  CLI::App* command = app->add_subcommand(
      "sample-set",
      "Make many images as numpy shards; stop it at any time, and run it again to go on");
  AddSampleFlags(command, &options->flags);
  command
      ->add_option("--class,--classes", options->flags.classes,
                   "Classes that the images take in turn; all: every class")
      ->type_name("C|C,C,...|all")
      ->required();
  command->add_option("--count", options->count, "Images of the whole set")
      ->check(CLI::Range(int64_t{1}, int64_t{100'000'000}))
      ->required();
  command->add_option("--out", options->out, "Directory of the set")->type_name("DIR")->required();
  command->add_option("--shard-images", options->shard_images, "Images per file")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}))
      ->capture_default_str();
  command->add_option("--in-flight", options->in_flight, "Requests at a time")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--request-images", options->request_images, "Images per request")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option("--patience", options->patience,
                   "Give up when no request has finished for so long")
      ->type_name("DURATION")
      ->capture_default_str();
  command->callback([context, options] {
    context->action = [context, options] { return SampleSet(*context, *options); };
  });
}

}  // namespace diffmoe
