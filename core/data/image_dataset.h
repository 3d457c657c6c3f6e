// Labelled images for training: an IDX data set (MNIST layout) or a folder of class folders of PNG
// and JPEG files.
//
// Every image is decoded once in Open, so that a data set holds only good images and the same index
// means the same image on every rank. Images are then kept in memory as uint8, or decoded again on
// each Read when they need more than DatasetLimits::memory_bytes.
//
// Folder: classes are numbered in byte order of the folders' names; images in byte order of their
// names, class by class. Names that begin with '.', nested folders, and files that end in none of
// .png, .jpg, .jpeg are left out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/spec/training_config.h"

namespace diffmoe {

// A file that could not be used, and why.
struct BadFile {
  std::string path;
  std::string reason;
};

struct DatasetLimits {
  int64_t memory_bytes = int64_t{4} << 30;   // decoded images beyond this are not kept
  int64_t image_pixels = int64_t{64} << 20;  // checked before an image is decoded
  int64_t file_bytes = int64_t{256} << 20;   // of one image file
  std::function<void()> progress = nullptr;  // called for each image that Open has looked at
};

// Immutable after Open; Read may be called from several threads.
class ImageDataset {
 public:
  // Errors: NOT_FOUND (no such directory or file), INVALID_ARGUMENT (more than max_bad_files broken
  // files, more classes than the model has, a label out of range, no image at all, images too large
  // for `pad`), PERMISSION_DENIED, DATA_LOSS (a damaged IDX file). The message names the file.
  static absl::StatusOr<std::unique_ptr<ImageDataset>> Open(const DataConfig& data,
                                                            const ModelConfig& model,
                                                            const DatasetLimits& limits = {});
  virtual ~ImageDataset() = default;

  virtual int64_t size() const = 0;
  // Number of class folders, or the largest label plus one.
  virtual int64_t classes() const = 0;
  virtual int label(int64_t index) const = 0;
  // out: [channels, image_size, image_size], values in [-1, 1]. index in [0, size()).
  // DATA_LOSS when a file that is decoded again has changed for the worse.
  virtual absl::Status Read(int64_t index, absl::Span<float> out, int* label) const = 0;
  // Files that were skipped, in order.
  virtual const std::vector<BadFile>& bad_files() const = 0;
};

// Mirrors an image left-right. planes: [channels, height, width].
void FlipHorizontal(int64_t channels, int64_t height, int64_t width, absl::Span<float> planes);

}  // namespace diffmoe
