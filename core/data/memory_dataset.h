// A data set whose images are all in memory.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/data/image_dataset.h"
#include "core/data/image_fit.h"

namespace diffmoe {

class MemoryDataset final : public ImageDataset {
 public:
  // pixels: [labels.size(), channels, size, size] as in `fit`.
  MemoryDataset(const ImageFit& fit, std::vector<uint8_t> pixels, std::vector<int> labels,
                int64_t classes, std::vector<BadFile> bad_files)
      : fit_(fit),
        pixels_(std::move(pixels)),
        labels_(std::move(labels)),
        classes_(classes),
        bad_files_(std::move(bad_files)) {}

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  int64_t classes() const override { return classes_; }
  int label(int64_t index) const override { return labels_[index]; }
  absl::Status Read(int64_t index, absl::Span<float> out, int* label) const override;
  const std::vector<BadFile>& bad_files() const override { return bad_files_; }

 private:
  ImageFit fit_;
  std::vector<uint8_t> pixels_;
  std::vector<int> labels_;
  int64_t classes_;
  std::vector<BadFile> bad_files_;
};

// INVALID_ARGUMENT unless index is in [0, size) and the buffer has the right length.
absl::Status CheckRead(int64_t index, int64_t size, size_t buffer, const ImageFit& fit);

// 0..255 to [-1, 1]. Both spans have one length.
void PixelsToValues(absl::Span<const uint8_t> pixels, absl::Span<float> values);

}  // namespace diffmoe
