// The images of one sampling call, gathered and written to files.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/data/image.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe {

// Not thread-safe.
class SampleImages {
 public:
  explicit SampleImages(int count);

  // DATA_LOSS when the image doesn't fit: an index outside [0, count) or seen before, another size
  // than the others, or a number of pixels that doesn't fit its size.
  absl::Status Add(const v1::SampleResponse::Image& image);

  // One PNG, images in ascending index. columns 0: as square as it gets; scale 0: 2 for images up
  // to 64 pixels, else 1. DATA_LOSS when an image is missing.
  absl::Status WriteGrid(const std::string& path, int columns, int scale) const;
  // uint8 [count, height, width, channels]. DATA_LOSS when an image is missing.
  absl::Status WriteRaw(const std::string& path) const;
  // All images in ascending index. DATA_LOSS when one is missing.
  absl::StatusOr<std::vector<Image>> All() const;
  // "[16, 32, 32, 1]".
  std::string ShapeText() const;

 private:
  absl::Status CheckComplete() const;

  std::vector<Image> images_;
};

}  // namespace diffmoe
