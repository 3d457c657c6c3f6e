#include "core/data/image_dataset.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/data/folder_dataset.h"
#include "core/data/idx_dataset.h"
#include "core/data/memory_dataset.h"

namespace diffmoe {
namespace {

absl::Status CheckDirectory(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return FileError(errno, "open data.path", path);
  if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("data.path ", path, " is not a directory"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageDataset>> ImageDataset::Open(const DataConfig& data,
                                                                 const ModelConfig& model,
                                                                 const DatasetLimits& limits) {
  RETURN_IF_ERROR(CheckDirectory(data.path));
  if (model.channels != 1 && model.channels != 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("images have 1 or 3 channels, model.channels is ", model.channels));
  }
  const ImageFit fit{model.channels, model.image_size, data.resize};
  std::unique_ptr<ImageDataset> dataset;
  if (data.format == DataFormat::kIdx) {
    ASSIGN_OR_RETURN(dataset, OpenIdxDataset(data, model, fit, limits));
  } else {
    ASSIGN_OR_RETURN(dataset, OpenFolderDataset(data, model, fit, limits));
  }
  if (dataset->size() == 0) {
    return absl::InvalidArgumentError(absl::StrCat("data.path ", data.path, " holds no images"));
  }
  LogInfo("data", "data set opened",
          {{"path", data.path},
           {"images", dataset->size()},
           {"classes", dataset->classes()},
           {"bad_files", dataset->bad_files().size()}});
  return dataset;
}

absl::Status CheckRead(int64_t index, int64_t size, size_t buffer, const ImageFit& fit) {
  if (index < 0 || index >= size) {
    return absl::InvalidArgumentError(
        absl::StrCat("image ", index, " is out of range, the data set has ", size));
  }
  if (static_cast<int64_t>(buffer) != fit.bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("an image has ", fit.bytes(), " values, the buffer has ", buffer));
  }
  return absl::OkStatus();
}

void PixelsToValues(absl::Span<const uint8_t> pixels, absl::Span<float> values) {
  for (size_t i = 0; i < pixels.size(); ++i) {
    values[i] = static_cast<float>(pixels[i]) / 127.5f - 1.0f;
  }
}

absl::Status MemoryDataset::Read(int64_t index, absl::Span<float> out, int* label) const {
  RETURN_IF_ERROR(CheckRead(index, size(), out.size(), fit_));
  const size_t bytes = static_cast<size_t>(fit_.bytes());
  PixelsToValues(absl::MakeConstSpan(pixels_).subspan(index * bytes, bytes), out);
  *label = labels_[index];
  return absl::OkStatus();
}

void FlipHorizontal(int64_t channels, int64_t height, int64_t width, absl::Span<float> planes) {
  for (int64_t row = 0; row < channels * height; ++row) {
    std::reverse(planes.begin() + row * width, planes.begin() + (row + 1) * width);
  }
}

}  // namespace diffmoe
