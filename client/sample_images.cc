#include "client/sample_images.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"
#include "core/eval/png.h"

namespace diffmoe {
namespace {

constexpr int kMaxSide = 4096;

std::string SizeText(const Image& image) {
  return absl::StrCat(image.height, "x", image.width, "x", image.channels);
}

}  // namespace

SampleImages::SampleImages(int count) : images_(static_cast<size_t>(count)) {}

absl::Status SampleImages::Add(const v1::SampleResponse::Image& image) {
  const auto count = static_cast<int>(images_.size());
  if (image.index() < 0 || image.index() >= count) {
    return absl::DataLossError(
        absl::StrCat("image from the coordinator: expected an index from 0 to ", count - 1,
                     ", got ", image.index()));
  }
  Image& place = images_[static_cast<size_t>(image.index())];
  const Image added{image.height(),
                    image.width(),
                    image.channels(),
                    {image.pixels().begin(), image.pixels().end()}};
  const bool sizes_fit = added.height > 0 && added.height <= kMaxSide && added.width > 0 &&
                         added.width <= kMaxSide && added.channels > 0 && added.channels <= 16 &&
                         added.pixels.size() == static_cast<size_t>(added.height) *
                                                    static_cast<size_t>(added.width) *
                                                    static_cast<size_t>(added.channels);
  if (!place.pixels.empty() || !sizes_fit) {
    return absl::DataLossError(absl::StrCat("image ", image.index(),
                                            " from the coordinator: expected it once with all its "
                                            "pixels, got ",
                                            place.pixels.empty() ? "" : "it again, ",
                                            SizeText(added), " with ", added.pixels.size(),
                                            " bytes"));
  }
  place = added;
  return absl::OkStatus();
}

absl::Status SampleImages::CheckComplete() const {
  for (size_t i = 0; i < images_.size(); ++i) {
    if (images_[i].pixels.empty()) {
      return absl::DataLossError(absl::StrCat(
          "expected ", images_.size(), " images from the coordinator, image ", i, " is missing"));
    }
    if (SizeText(images_[i]) != SizeText(images_[0])) {
      return absl::DataLossError(absl::StrCat("image ", i, " from the coordinator: expected size ",
                                              SizeText(images_[0]), ", got ",
                                              SizeText(images_[i])));
    }
  }
  return absl::OkStatus();
}

absl::Status SampleImages::WriteGrid(const std::string& path, int columns, int scale) const {
  RETURN_IF_ERROR(CheckComplete());
  GridOptions options;
  options.columns = columns;
  options.scale = scale > 0 ? scale : std::max(images_[0].height, images_[0].width) <= 64 ? 2 : 1;
  ASSIGN_OR_RETURN(const Image grid, MakeGrid(images_, options));
  return WritePng(path, grid);
}

absl::Status SampleImages::WriteRaw(const std::string& path) const {
  RETURN_IF_ERROR(CheckComplete());
  std::string bytes;
  for (const Image& image : images_) bytes.append(image.pixels.begin(), image.pixels.end());
  return WriteFileAtomically(path, bytes);
}

absl::StatusOr<std::vector<Image>> SampleImages::All() const {
  RETURN_IF_ERROR(CheckComplete());
  return images_;
}

std::string SampleImages::ShapeText() const {
  if (images_.empty()) return "[0]";
  return absl::StrCat("[", images_.size(), ", ", images_[0].height, ", ", images_[0].width, ", ",
                      images_[0].channels, "]");
}

}  // namespace diffmoe
