#include "core/data/idx_dataset.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/data/idx_reader.h"
#include "core/data/memory_dataset.h"

namespace diffmoe {
namespace {

absl::StatusOr<std::vector<int>> ReadLabels(IdxReader& file, int64_t classes) {
  std::vector<int> labels;
  std::vector<uint8_t> block(64 << 10);
  for (int64_t left = file.sizes()[0]; left > 0;) {
    const int64_t count = std::min<int64_t>(left, static_cast<int64_t>(block.size()));
    RETURN_IF_ERROR(file.Read(absl::MakeSpan(block).first(count)));
    for (int64_t i = 0; i < count; ++i) {
      if (block[i] >= classes) {
        return absl::InvalidArgumentError(
            absl::StrCat(file.path(), ": label ", static_cast<int>(block[i]), " of image ",
                         labels.size(), " is out of range, model.classes is ", classes));
      }
      labels.push_back(block[i]);
    }
    left -= count;
  }
  RETURN_IF_ERROR(file.ExpectEnd());
  return labels;
}

absl::Status CheckImageSizes(const IdxReader& images, const ImageFit& fit,
                             const DatasetLimits& limits) {
  const int64_t height = images.sizes()[1], width = images.sizes()[2];
  if (height < 1 || width < 1 || height > limits.image_pixels / width) {
    return absl::DataLossError(absl::StrCat(images.path(), ": images of ", height, "x", width,
                                            " pixels, expected 1 to ", limits.image_pixels));
  }
  if (images.sizes()[0] > limits.memory_bytes / fit.bytes()) {
    return absl::ResourceExhaustedError(
        absl::StrCat(images.path(), ": ", images.sizes()[0], " images of ", fit.bytes(),
                     " bytes each need more than ", limits.memory_bytes, " bytes of memory"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageDataset>> OpenIdxDataset(const DataConfig& data,
                                                             const ModelConfig& model,
                                                             const ImageFit& fit,
                                                             const DatasetLimits& limits) {
  if (data.split.empty() || data.split.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("data.split is '", EscapeForLog(data.split), "', expected train or t10k"));
  }
  const std::string prefix = absl::StrCat(data.path, "/", data.split);
  ASSIGN_OR_RETURN(auto images, IdxReader::Open(absl::StrCat(prefix, "-images-idx3-ubyte"), 3));
  ASSIGN_OR_RETURN(auto label_file, IdxReader::Open(absl::StrCat(prefix, "-labels-idx1-ubyte"), 1));
  const int64_t count = images->sizes()[0];
  if (label_file->sizes()[0] != count) {
    return absl::InvalidArgumentError(absl::StrCat(images->path(), " has ", count, " images, ",
                                                   label_file->path(), " has ",
                                                   label_file->sizes()[0], " labels"));
  }
  RETURN_IF_ERROR(CheckImageSizes(*images, fit, limits));
  ASSIGN_OR_RETURN(std::vector<int> labels, ReadLabels(*label_file, model.classes));

  Image image{static_cast<int>(images->sizes()[1]), static_cast<int>(images->sizes()[2]), 1, {}};
  image.pixels.resize(static_cast<size_t>(image.height) * image.width);
  std::vector<uint8_t> pixels;
  pixels.reserve(labels.size() * static_cast<size_t>(fit.bytes()));
  std::vector<uint8_t> planes(fit.bytes());
  for (int64_t i = 0; i < count; ++i) {
    if (limits.progress) limits.progress();
    RETURN_IF_ERROR(images->Read(absl::MakeSpan(image.pixels)));
    const absl::Status fitted = FitImage(image, fit, absl::MakeSpan(planes));
    if (!fitted.ok()) {
      return absl::Status(fitted.code(), absl::StrCat(images->path(), ": ", fitted.message()));
    }
    pixels.insert(pixels.end(), planes.begin(), planes.end());
  }
  RETURN_IF_ERROR(images->ExpectEnd());
  const int64_t classes =
      labels.empty() ? 0 : *std::max_element(labels.begin(), labels.end()) + int64_t{1};
  return std::make_unique<MemoryDataset>(fit, std::move(pixels), std::move(labels), classes,
                                         std::vector<BadFile>());
}

}  // namespace diffmoe
