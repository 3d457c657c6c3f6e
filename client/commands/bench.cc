#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/api_client.h"
#include "client/api_status.h"
#include "client/bench/load_generator.h"
#include "client/bench/load_report.h"
#include "client/commands/commands.h"
#include "client/commands/sample_flags.h"
#include "client/names.h"
#include "client/output/progress.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

struct BenchOptions {
  SampleFlags flags;
  int count = 1;
  int closed = 0;
  double rate = 0;
  double seconds = 10;
  int64_t requests = 1'000'000;
  int in_flight_bound = 4096;
  std::string deadline;
};

absl::StatusOr<LoadOptions> MakeLoad(ApiClient* client, const BenchOptions& options) {
  LoadOptions load;
  ASSIGN_OR_RETURN(load.request, RequestFromFlags(options.flags));
  ASSIGN_OR_RETURN(load.classes,
                   ClassesFromFlag(client, options.flags.classes, load.request.checkpoint()));
  if (load.classes.empty()) return UsageError("--class: expected a class, got none");
  if (!load.request.has_seed()) load.request.set_seed(1);
  load.request.set_count(options.count);
  load.arrival_seed = load.request.seed();
  load.closed = options.rate > 0 ? 0 : std::max(1, options.closed);
  load.rate = options.rate;
  load.window = absl::Seconds(options.seconds);
  load.max_requests = options.requests;
  load.in_flight_bound = options.in_flight_bound;
  if (!options.deadline.empty()) {
    ASSIGN_OR_RETURN(load.deadline, ParsePositiveDuration("--deadline", options.deadline));
  }
  return load;
}

absl::StatusOr<int> BenchSample(const Context& context, const BenchOptions& options) {
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  ASSIGN_OR_RETURN(LoadOptions load, MakeLoad(&client, options));
  ProgressPrinter printer(&context.err, &context.clock, context.progress);
  load.on_progress = [&printer](const std::string& line) { printer.Set(line); };
  const absl::StatusOr<LoadResult> result = RunLoad(load, &client, &interrupt);
  printer.Finish();
  RETURN_IF_ERROR(result.status());
  context.out << (context.format == OutputFormat::kTable
                      ? LoadReportText(*result)
                      : JsonText(LoadReportJson(*result), context.format))
              << std::flush;
  return interrupt.triggered() ? kExitInterrupted : kExitOk;
}

}  // namespace

void AddBenchCommand(CLI::App* app, Context* context) {
  CLI::App* bench = app->add_subcommand("bench", "Measure a running cluster");
  bench->require_subcommand(1);
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command =
      bench->add_subcommand("sample", "Sampling requests under load: goodput, latencies, refusals");
  AddSampleFlags(command, &options->flags);
  options->flags.classes = "0";
  command
      ->add_option("--class,--classes", options->flags.classes,
                   "Classes that the requests take in turn")
      ->type_name("C|C,C,...|all")
      ->capture_default_str();
  command->add_option("--n", options->count, "Images per request")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  CLI::Option* closed =
      command->add_option("--closed", options->closed, "So many requests at a time (default: 1)")
          ->check(CLI::Range(1, 4096));
  command
      ->add_option("--rate", options->rate,
                   "Requests a second, at random times that don't wait for replies")
      ->check(CLI::Range(0.001, 100000.0))
      ->excludes(closed);
  command->add_option("--seconds", options->seconds, "Time in which requests are started")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
  command->add_option("--requests", options->requests, "Most requests")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}))
      ->capture_default_str();
  command
      ->add_option("--in-flight-bound", options->in_flight_bound,
                   "Most requests in flight with --rate; arrivals beyond are counted, not started")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command->add_option("--deadline", options->deadline, "Of each request (default: none)")
      ->type_name("DURATION");
  command->callback([context, options] {
    context->action = [context, options] { return BenchSample(*context, *options); };
  });
}

}  // namespace diffmoe
