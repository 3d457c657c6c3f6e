#include "core/model/weights_file.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/model/position_table.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

constexpr char kModelKey[] = "model";
constexpr float kDecay = 0.95f;  // of the thresholds
// A published average holds an average of the decay too, in fp32: each step rounds by half a unit
// in the last place, so the value may wander by 3e-8 / (1 - 0.9999).
constexpr double kDecayTolerance = 1e-3;
constexpr double kTableTolerance = 1e-6;
constexpr size_t kMaxFaults = 20;

const char* FamilyName(Family family) {
  switch (family) {
    case Family::kDense:
      return "dense";
    case Family::kTokenChoice:
      return "token_choice";
    case Family::kExpertChoice:
      return "expert_choice";
    case Family::kDiffMoe:
      return "diffmoe";
  }
  return "unknown";
}

// The family whose tensors a file holds.
Family FamilyOf(const SafetensorsReader& file) {
  Family family = Family::kDense;
  for (const SafetensorsInfo& tensor : file.tensors()) {
    if (absl::StrContains(tensor.name, ".mlp.capacity_predictor.")) return Family::kDiffMoe;
    if (absl::EndsWith(tensor.name, ".mlp.gate.weight")) return Family::kTokenChoice;
    if (absl::EndsWith(tensor.name, ".mlp.gate_weight")) family = Family::kExpertChoice;
  }
  return family;
}

std::string TensorText(const std::string& dtype, const std::vector<int64_t>& shape) {
  return absl::StrCat(dtype, " [", absl::StrJoin(shape, ", "), "]");
}

std::string QuotedName(const std::string& name) {
  return absl::StrCat("tensor '", EscapeForLog(name.substr(0, 200)), "'");
}

std::vector<float> PositionFloats(const ModelConfig& model) {
  const std::vector<double> values =
      PositionValues(model.image_size / model.patch_size, model.width);
  return {values.begin(), values.end()};
}

std::vector<StateTensor> StateByName(const ModelConfig& model) {
  std::vector<StateTensor> list = DescribeStateDict(model);
  std::sort(list.begin(), list.end(),
            [](const StateTensor& a, const StateTensor& b) { return a.name < b.name; });
  return list;
}

}  // namespace

// Compares a file with a model and collects the faults.
class WeightsReader::Checker {
 public:
  Checker(const ModelConfig& model, WeightsReader* reader) : model_(model), reader_(*reader) {}

  absl::Status Check() {
    const Family family = FamilyOf(*reader_.file_);
    if (family != model_.family) {
      return absl::FailedPreconditionError(
          absl::StrCat(reader_.path_, ": expected the tensors of model.family ",
                       FamilyName(model_.family), ", got those of ", FamilyName(family)));
    }
    CheckNames();
    if (faults_.empty()) RETURN_IF_ERROR(CheckConstants());
    CheckDescription();
    if (faults_.empty()) return absl::OkStatus();
    const size_t count = faults_.size();
    if (count > kMaxFaults) {
      faults_.resize(kMaxFaults);
      faults_.push_back(absl::StrCat("and ", count - kMaxFaults, " more"));
    }
    return absl::FailedPreconditionError(absl::StrCat(
        reader_.path_, ": not the weights of this model: ", absl::StrJoin(faults_, "; ")));
  }

 private:
  void CheckNames() {
    std::map<std::string, const StateTensor*> expected;
    const std::vector<StateTensor> state = DescribeStateDict(model_);
    for (const StateTensor& tensor : state) {
      expected[tensor.name] = &tensor;
      const SafetensorsInfo* info = reader_.file_->Find(tensor.name);
      const std::string want = TensorText("F32", tensor.shape);
      const std::string got = info == nullptr ? "nothing" : TensorText(info->dtype, info->shape);
      if (got != want) {
        faults_.push_back(
            absl::StrCat(QuotedName(tensor.name), ": expected ", want, ", got ", got));
      }
    }
    for (const SafetensorsInfo& info : reader_.file_->tensors()) {
      if (expected.contains(info.name)) continue;
      faults_.push_back(absl::StrCat(QuotedName(info.name), ": expected no such tensor, got ",
                                     TensorText(info.dtype, info.shape)));
    }
  }

  absl::Status CheckConstants() {
    for (int64_t block = 0; block < model_.depth; ++block) {
      if (model_.IsMoeBlock(block)) reader_.thresholds_.emplace_back();
    }
    size_t layer = 0;
    for (const StateTensor& tensor : DescribeStateDict(model_)) {
      if (tensor.role == StateRole::kParameter) continue;
      ASSIGN_OR_RETURN(const std::vector<float> values, reader_.file_->ReadFloats(tensor.name));
      if (tensor.role == StateRole::kPositionTable) {
        CheckValues(tensor.name, values, PositionFloats(model_), kTableTolerance);
      } else if (tensor.role == StateRole::kThresholdDecay) {
        CheckValues(tensor.name, values, {kDecay}, kDecayTolerance);
      } else {
        CheckThresholds(tensor.name, values);
        reader_.thresholds_[layer++] = values;
      }
    }
    return absl::OkStatus();
  }

  void CheckValues(const std::string& name, const std::vector<float>& got,
                   const std::vector<float>& want, double tolerance) {
    for (size_t i = 0; i < want.size(); ++i) {
      if (std::abs(static_cast<double>(got[i]) - want[i]) <= tolerance) continue;
      faults_.push_back(absl::StrFormat("%s: expected %.7g (within %g) at element %d, got %.7g",
                                        QuotedName(name), want[i], tolerance, i, got[i]));
      return;
    }
  }

  void CheckThresholds(const std::string& name, const std::vector<float>& got) {
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i] >= 0 && got[i] <= 1) continue;
      faults_.push_back(
          absl::StrFormat("%s: expected a threshold from 0 to 1 at element %d, got "
                          "%.9g",
                          QuotedName(name), i, got[i]));
      return;
    }
  }

  // What shapes don't show. A file of another tool says nothing about it, or in other words.
  void CheckDescription() {
    const std::string* text = reader_.file_->FindMetadata(kModelKey);
    if (text == nullptr) return;
    const auto description = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (!description.is_object()) return;
    CheckNumber(description, "heads", static_cast<double>(model_.heads));
    CheckNumber(description, "time_scale", model_.time_scale);
  }

  void CheckNumber(const nlohmann::json& description, const char* field, double want) {
    const auto found = description.find(field);
    if (found == description.end() || !found->is_number() || found->get<double>() == want) return;
    faults_.push_back(absl::StrFormat("metadata: expected model.%s %.15g, got %.15g", field, want,
                                      found->get<double>()));
  }

  const ModelConfig& model_;
  WeightsReader& reader_;
  std::vector<std::string> faults_;
};

absl::StatusOr<std::unique_ptr<WeightsReader>> WeightsReader::Open(const std::string& path,
                                                                   const ModelConfig& model) {
  ASSIGN_OR_RETURN(auto file, SafetensorsReader::Open(path));
  std::unique_ptr<WeightsReader> reader(new WeightsReader(path, std::move(file)));
  RETURN_IF_ERROR(Checker(model, reader.get()).Check());
  return reader;
}

absl::Status WeightsReader::Read(const std::string& name, absl::Span<float> out) const {
  const SafetensorsInfo* info = file_->Find(name);
  if (info == nullptr) return absl::NotFoundError(absl::StrCat(path_, ": no ", QuotedName(name)));
  RETURN_IF_ERROR(file_->ReadInto(
      *info, absl::MakeSpan(reinterpret_cast<char*>(out.data()), out.size() * sizeof(float))));
  for (size_t i = 0; i < out.size(); ++i) {
    if (std::isfinite(out[i])) continue;
    return absl::FailedPreconditionError(
        absl::StrFormat("%s: %s: expected a finite number at element %d, got %g", path_,
                        QuotedName(name), i, out[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WeightsWriter>> WeightsWriter::Create(
    const std::string& path, const ModelConfig& model,
    const std::vector<std::vector<float>>& thresholds, const SafetensorsMetadata& metadata) {
  std::unique_ptr<WeightsWriter> writer(new WeightsWriter);
  std::map<int64_t, const std::vector<float>*> thresholds_of;  // by block
  size_t layer = 0;
  for (int64_t block = 0; block < model.depth; ++block) {
    if (!model.IsMoeBlock(block)) continue;
    if (layer < thresholds.size()) thresholds_of[block] = &thresholds[layer];
    ++layer;
  }
  std::vector<SafetensorsInfo> infos;
  for (StateTensor& tensor : StateByName(model)) {
    Entry entry{std::move(tensor), {}};
    if (entry.tensor.role == StateRole::kPositionTable) {
      entry.constant = PositionFloats(model);
    } else if (entry.tensor.role == StateRole::kThresholdDecay) {
      entry.constant = {kDecay};
    } else if (entry.tensor.role == StateRole::kThreshold) {
      const auto found = thresholds_of.find(entry.tensor.block);
      const size_t got = found == thresholds_of.end() ? 0 : found->second->size();
      if (static_cast<int64_t>(got) != model.experts) {
        return absl::InvalidArgumentError(absl::StrCat(QuotedName(entry.tensor.name), ": expected ",
                                                       model.experts, " thresholds, got ", got));
      }
      entry.constant = *found->second;
    } else {
      writer->parameters_.push_back(entry.tensor);
    }
    infos.push_back({.name = entry.tensor.name, .dtype = "F32", .shape = entry.tensor.shape});
    writer->entries_.push_back(std::move(entry));
  }
  ASSIGN_OR_RETURN(writer->file_, SafetensorsWriter::Create(path, metadata, std::move(infos)));
  RETURN_IF_ERROR(writer->WriteConstants());
  return writer;
}

absl::Status WeightsWriter::WriteConstants() {
  for (; next_ < entries_.size(); ++next_) {
    const Entry& entry = entries_[next_];
    if (entry.tensor.role == StateRole::kParameter) {
      left_bytes_ = entry.tensor.elements() * static_cast<int64_t>(sizeof(float));
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(
        file_->Append(std::string_view(reinterpret_cast<const char*>(entry.constant.data()),
                                       entry.constant.size() * sizeof(float))));
  }
  return absl::OkStatus();
}

absl::Status WeightsWriter::Append(std::string_view bytes) {
  while (!bytes.empty()) {
    if (next_ == entries_.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(bytes.size(), " bytes more than the parameters have"));
    }
    const std::string_view piece = bytes.substr(0, static_cast<size_t>(left_bytes_));
    RETURN_IF_ERROR(file_->Append(piece));
    bytes.remove_prefix(piece.size());
    left_bytes_ -= static_cast<int64_t>(piece.size());
    if (left_bytes_ > 0) continue;
    ++next_;
    RETURN_IF_ERROR(WriteConstants());
  }
  return absl::OkStatus();
}

absl::Status WeightsWriter::Finish() { return file_->Finish(); }

SafetensorsMetadata DefaultMetadata(const ModelConfig& model) {
  nlohmann::ordered_json description = {
      {"family", FamilyName(model.family)},
      {"image_size", model.image_size},
      {"channels", model.channels},
      {"patch_size", model.patch_size},
      {"width", model.width},
      {"depth", model.depth},
      {"heads", model.heads},
      {"mlp_ratio", model.mlp_ratio},
      {"activation", model.activation == Activation::kSwiglu ? "swiglu" : "gelu"},
      {"classes", model.classes},
      {"time_scale", model.time_scale},
      {"learn_sigma", model.learn_sigma}};
  if (model.HasExperts()) {
    description["experts"] = model.experts;
    description["expert_width_ratio"] = model.expert_width_ratio;
    description["shared_experts"] = model.shared_experts;
    description["moe_every"] = model.moe_every;
    if (model.family == Family::kTokenChoice) {
      description["top_k"] = model.top_k;
    } else {
      description["capacity"] = model.capacity;
    }
  }
  return {{"format", "pt"}, {kModelKey, description.dump()}};
}

}  // namespace diffmoe
