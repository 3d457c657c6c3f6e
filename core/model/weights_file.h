// Weights as a safetensors file with the names of the published state dict, so that other tools
// read ours and we read theirs. All tensors are fp32. Torch-free.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/data/safetensors.h"
#include "core/model/state_dict.h"
#include "core/spec/training_config.h"

namespace diffmoe {

// Thread-safe after Open. Reads tensors on demand.
class WeightsReader {
 public:
  // Accepts a file that holds exactly the state dict of `model`, as DescribeStateDict lists it: its
  // position table within 1e-6 of ours, thresholds in [0, 1]. FAILED_PRECONDITION lists what is
  // missing, too much, or of another dtype, shape or value, with expected and got (20 faults at
  // most); a file of another family is named as such. Also when the file's own model
  // description (which our files carry) differs in what shapes don't show: heads and time_scale.
  // Errors of the file itself: SafetensorsReader::Open; pickles are INVALID_ARGUMENT.
  static absl::StatusOr<std::unique_ptr<WeightsReader>> Open(const std::string& path,
                                                             const ModelConfig& model);

  // The values of a tensor of the state dict; `out` must hold exactly its elements.
  // FAILED_PRECONDITION naming the tensor when a value isn't finite; NOT_FOUND.
  absl::Status Read(const std::string& name, absl::Span<float> out) const;

  // [MoE layers][experts] of diffmoe; no experts in the layers of other families.
  const std::vector<std::vector<float>>& thresholds() const { return thresholds_; }
  const SafetensorsMetadata& metadata() const { return file_->metadata(); }

 private:
  class Checker;
  WeightsReader(std::string path, std::unique_ptr<SafetensorsReader> file)
      : path_(std::move(path)), file_(std::move(file)) {}

  std::string path_;
  std::unique_ptr<SafetensorsReader> file_;
  std::vector<std::vector<float>> thresholds_;
};

// Writes such a file in one pass: the caller gives the parameters, everything else comes from the
// model. The file appears at Finish, whole. Not thread-safe. File errors as in AtomicFile.
class WeightsWriter {
 public:
  // thresholds: as WeightsReader's; INVALID_ARGUMENT when they don't fit the model. metadata: of
  // the header; DefaultMetadata(model) unless a file is to be reproduced.
  static absl::StatusOr<std::unique_ptr<WeightsWriter>> Create(
      const std::string& path, const ModelConfig& model,
      const std::vector<std::vector<float>>& thresholds, const SafetensorsMetadata& metadata);

  // The parameters in the order in which Append wants their values: by name.
  const std::vector<StateTensor>& parameters() const { return parameters_; }
  // The next bytes of the parameters, little-endian fp32, in pieces of any size.
  absl::Status Append(std::string_view bytes);
  absl::Status Finish();

 private:
  struct Entry {
    StateTensor tensor;
    std::vector<float> constant;  // of what isn't a parameter
  };
  WeightsWriter() = default;
  // Writes what the model determines, up to the next parameter.
  absl::Status WriteConstants();

  std::unique_ptr<SafetensorsWriter> file_;
  std::vector<Entry> entries_;  // by name
  std::vector<StateTensor> parameters_;
  size_t next_ = 0;         // entry
  int64_t left_bytes_ = 0;  // of the parameter at next_
};

// {format: "pt", model: JSON with the fields of the spec's model section}.
SafetensorsMetadata DefaultMetadata(const ModelConfig& model);

}  // namespace diffmoe
