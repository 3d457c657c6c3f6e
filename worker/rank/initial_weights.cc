#include "worker/rank/initial_weights.h"

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/model/weights_file.h"

namespace diffmoe {
namespace {

absl::Status Load(const std::string& path, const ModelConfig& model, TrainEngine& engine) {
  ASSIGN_OR_RETURN(const auto file, WeightsReader::Open(path, model));
  const ParameterLayout& layout = engine.layout();
  for (const auto* places : {&layout.dense(), &layout.experts()}) {
    for (const ParameterPlace& place : *places) {
      at::Tensor values = engine.parameters().at(place.info->name).detach();
      RETURN_IF_ERROR(file->Read(
          place.info->name,
          absl::MakeSpan(values.data_ptr<float>(), static_cast<size_t>(values.numel()))));
    }
  }
  engine.FinishRestore(file->thresholds(), /*initialized=*/true);
  engine.StartAverage();
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadInitialWeights(const std::string& path, const ModelConfig& model,
                                TrainEngine& engine) {
  const absl::Status status = Load(path, model, engine);
  return status.ok() ? status
                     : absl::Status(status.code(),
                                    absl::StrCat("train.initial_weights: ", status.message()));
}

}  // namespace diffmoe
