// The images of one sampling call, gathered and written to files.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/image_assembly.h"
#include "core/data/image.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe {

// Not thread-safe. Raw images make grids and hashes; PNG images are written as they came.
class SampleImages {
 public:
  explicit SampleImages(int count, v1::ImageEncoding encoding = v1::RAW);

  // Takes a part of an image, or a whole one. DATA_LOSS when it doesn't fit: an index outside
  // [0, count), another encoding than asked for, and as ImageAssembly::Add.
  absl::Status Add(const v1::SampleResponse::Image& image);
  // Forgets all images, for the same call once more.
  void Clear();

  // Images that are complete.
  int done() const { return done_; }
  const ImageAssembly& at(int index) const { return images_[static_cast<size_t>(index)]; }

  // Whether every image is there and all have one size. DATA_LOSS otherwise.
  absl::Status CheckComplete() const;
  // CheckComplete, and raw images against the hashes of the receipt, if it has any: DATA_LOSS that
  // names the first image that differs.
  absl::Status CheckAgainst(const v1::Receipt& receipt) const;

  // All of these: DATA_LOSS when an image is missing.
  // One PNG, images in ascending index. columns 0: as square as it gets; scale 0: 2 for images up
  // to 64 pixels, else 1.
  absl::Status WriteGrid(const std::string& path, int columns, int scale) const;
  // uint8 [count, height, width, channels].
  absl::Status WriteRaw(const std::string& path) const;
  // PNG images as DIRECTORY/00000.png and so on; makes the directory. INTERNAL for raw images.
  absl::Status WritePngFiles(const std::string& directory) const;
  absl::StatusOr<std::vector<Image>> All() const;
  // XXH3-128 of each raw image's pixels, as in Receipt.image_hashes.
  absl::StatusOr<std::vector<std::string>> Hashes() const;
  // "[16, 32, 32, 1]".
  std::string ShapeText() const;

 private:
  v1::ImageEncoding encoding_;
  int done_ = 0;
  std::vector<ImageAssembly> images_;
};

// Side of a pixel in a grid of such images when the user names none.
int DefaultScale(int height, int width);

}  // namespace diffmoe
