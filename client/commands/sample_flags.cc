#include "client/commands/sample_flags.h"

#include <pwd.h>
#include <unistd.h>

#include <array>

#include "CLI/CLI.hpp"
#include "client/names.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr size_t kMaxUserBytes = 64;

}  // namespace

void AddSampleFlags(CLI::App* command, SampleFlags* flags) {
  command->add_option("--job", flags->job, "Newest checkpoint of a job, or the one of a step")
      ->type_name("JOB[@step=N|@latest]")
      ->required();
  command->add_option("--seed", flags->seed, "Same seed, same images (default: drawn, and shown)");
  command
      ->add_option("--sampler", flags->sampler,
                   "euler, heun, dopri5, euler_maruyama for a rectified flow (default: euler); "
                   "ddim, ancestral, dpmpp_2m for ddpm (default: ddim)")
      ->type_name("NAME");
  command->add_option("--steps", flags->steps,
                      "Denoise steps, 1 to 1000; dopri5 chooses its own (default: 50)");
  command->add_option("--eta", flags->eta, "Noise per step of ddim, 0 to 1 (default: 0)");
  command->add_option("--guidance", flags->guidance,
                      "Classifier-free guidance scale, 0 to 100; 1 is off (default: 2)");
  command
      ->add_option("--guidance-interval", flags->guidance_interval,
                   "Part of the way from noise (0) to image (1) in which guidance acts (default: "
                   "all of it)")
      ->type_name("LO,HI");
  command->add_option("--negative-class", flags->negative_class,
                      "Class that guidance leads away from (default: no class)");
  command->add_option(
      "--capacity", flags->capacity,
      "Experts per token, mean over tokens; needs a calibrated checkpoint (default: "
      "what training gave)");
  command
      ->add_option("--threshold-rule", flags->threshold_rule,
                   "How a token chooses experts (default: dynamic; calibrated with --capacity)")
      ->type_name("dynamic|calibrated|interval|gate");
  command->add_option("--size", flags->size,
                      "Side of the images in pixels, a multiple of the patch size (default: as "
                      "trained)");
  command->add_option("--user", flags->user,
                      "Who asks, for fair shares of the queue (default: the login name)");
}

absl::StatusOr<v1::SampleRequest> RequestFromFlags(const SampleFlags& flags) {
  v1::SampleRequest request;
  ASSIGN_OR_RETURN(*request.mutable_checkpoint(), CheckpointNameFromReference(flags.job));
  if (!flags.seed.empty()) {
    ASSIGN_OR_RETURN(const uint64_t seed, ParseSeed(flags.seed));
    request.set_seed(seed);
  }
  if (flags.steps.has_value()) request.set_steps(*flags.steps);
  if (flags.guidance.has_value()) request.set_guidance(*flags.guidance);
  if (!flags.guidance_interval.empty()) {
    ASSIGN_OR_RETURN(*request.mutable_guidance_interval(),
                     ParseGuidanceInterval(flags.guidance_interval));
  }
  request.set_sampler(flags.sampler);
  if (flags.eta.has_value()) request.set_eta(*flags.eta);
  if (flags.capacity.has_value()) request.set_capacity(*flags.capacity);
  if (!flags.threshold_rule.empty()) {
    ASSIGN_OR_RETURN(const v1::ThresholdRule rule, ParseThresholdRule(flags.threshold_rule));
    request.set_threshold_rule(rule);
  }
  if (flags.size.has_value()) request.set_image_size(*flags.size);
  if (flags.negative_class.has_value()) request.set_negative_class(*flags.negative_class);
  request.set_user(flags.user.empty() ? LoginName() : flags.user);
  return request;
}

std::string JobOfCheckpoint(const std::string& checkpoint) {
  return checkpoint.substr(0, checkpoint.find('/', checkpoint.find('/') + 1));
}

absl::StatusOr<std::vector<int32_t>> ClassesFromFlag(ApiClient* client, const std::string& text,
                                                     const std::string& checkpoint) {
  if (text != "all") return ParseClasses(text);
  v1::GetJobRequest request;
  request.set_name(JobOfCheckpoint(checkpoint));
  ASSIGN_OR_RETURN(const v1::Job job, client->GetJob(request));
  std::vector<int32_t> classes;
  for (int32_t label = 0; label < job.spec().model().classes(); ++label) classes.push_back(label);
  return classes;
}

std::string LoginName() {
  std::array<char, 16384> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  if (getpwuid_r(getuid(), &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr ||
      found->pw_name == nullptr || *found->pw_name == '\0') {
    return "unknown";
  }
  return std::string(found->pw_name).substr(0, kMaxUserBytes);
}

}  // namespace diffmoe
