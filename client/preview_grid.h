// A PNG file with the newest previews of a running request.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/image_assembly.h"
#include "core/base/clock.h"
#include "core/data/image.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe {

// Not thread-safe. The file is replaced whole, at most five times a second; images without a
// preview yet are grey.
class PreviewGrid {
 public:
  // count: images of the request; columns as in GridOptions. `clock` must outlive it.
  PreviewGrid(std::string path, int count, int columns, int scale, const Clock* clock);

  // A preview or a part of one. A part whose beginning was dropped is left out. Errors: DATA_LOSS
  // as SampleImages::Add; those of writing a file.
  absl::Status Add(const v1::SampleResponse::Image& image);
  // A finished raw image in place of its preview.
  absl::Status SetFinal(int index, const ImageAssembly& image);
  // Writes what hasn't been written yet.
  absl::Status Flush();
  const std::string& path() const { return path_; }

 private:
  absl::Status Set(size_t index, Image image);

  const std::string path_;
  const int columns_;
  const int scale_;
  const Clock& clock_;
  std::vector<ImageAssembly> parts_;
  std::vector<std::optional<Image>> images_;
  bool dirty_ = false;
  std::optional<int64_t> written_ms_;
};

}  // namespace diffmoe
