#include "core/diffusion/sampler_kind.h"

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/spec/spec_fields.h"

namespace diffmoe {
namespace {

struct SamplerRow {
  SamplerKind kind;
  const char* name;
  ProcessKind process;
};

constexpr SamplerRow kSamplers[] = {
    {SamplerKind::kEuler, "euler", ProcessKind::kRectifiedFlow},
    {SamplerKind::kHeun, "heun", ProcessKind::kRectifiedFlow},
    {SamplerKind::kDopri5, "dopri5", ProcessKind::kRectifiedFlow},
    {SamplerKind::kEulerMaruyama, "euler_maruyama", ProcessKind::kRectifiedFlow},
    {SamplerKind::kAncestral, "ancestral", ProcessKind::kDdpm},
    {SamplerKind::kDdim, "ddim", ProcessKind::kDdpm},
    {SamplerKind::kDpmSolver2M, "dpmpp_2m", ProcessKind::kDdpm},
};

const SamplerRow& Row(SamplerKind kind) {
  for (const SamplerRow& row : kSamplers) {
    if (row.kind == kind) return row;
  }
  return kSamplers[0];
}

std::vector<std::string> Names(std::optional<ProcessKind> process) {
  std::vector<std::string> names;
  for (const SamplerRow& row : kSamplers) {
    if (!process || row.process == *process) names.emplace_back(row.name);
  }
  return names;
}

}  // namespace

absl::string_view SamplerName(SamplerKind kind) { return Row(kind).name; }

absl::StatusOr<SamplerKind> ParseSampler(absl::string_view name) {
  for (const SamplerRow& row : kSamplers) {
    if (row.name == name) return row.kind;
  }
  const std::vector<std::string> names = Names(std::nullopt);
  const std::string nearest = NearestName(name, names);
  return absl::InvalidArgumentError(
      absl::StrCat("expected one of ", absl::StrJoin(names, ", "), ", got ", QuoteForMessage(name),
                   nearest.empty() ? "" : absl::StrCat("; did you mean \"", nearest, "\"?")));
}

ProcessKind ProcessOf(SamplerKind kind) { return Row(kind).process; }

absl::string_view ProcessName(ProcessKind process) {
  return process == ProcessKind::kDdpm ? "ddpm" : "rectified_flow";
}

SamplerKind DefaultSampler(ProcessKind process) {
  return process == ProcessKind::kDdpm ? SamplerKind::kDdim : SamplerKind::kEuler;
}

std::vector<OptionFault> CheckSamplerOptions(const SamplerOptions& options, ProcessKind process) {
  std::vector<OptionFault> faults;
  const absl::string_view name = SamplerName(options.kind);
  if (ProcessOf(options.kind) != process) {
    faults.push_back(
        {"sampler",
         absl::StrCat("expected one of ", absl::StrJoin(Names(process), ", "),
                      " for a model trained with ", ProcessName(process), ", got ", name)});
  }
  // With one step a spaced DDPM schedule would keep only its last, nearly noiseless step.
  const int64_t least = ProcessOf(options.kind) == ProcessKind::kDdpm ? 2 : 1;
  if (options.kind != SamplerKind::kDopri5 &&
      (options.steps < least || options.steps > kMaxSamplerSteps)) {
    faults.push_back({"steps", absl::StrCat("expected ", least, " to ", kMaxSamplerSteps, " for ",
                                            name, ", got ", options.steps)});
  }
  if (!(options.eta >= 0 && options.eta <= 1)) {
    faults.push_back({"eta", absl::StrCat("expected a number from 0 to 1, got ", options.eta)});
  } else if (options.eta != 0 && options.kind != SamplerKind::kDdim) {
    faults.push_back(
        {"eta", absl::StrCat("expected 0 for ", name, ", only ddim has it; got ", options.eta)});
  }
  return faults;
}

}  // namespace diffmoe
