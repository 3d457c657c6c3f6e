#include "client/preview_grid.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/sample_images.h"
#include "core/base/status_macros.h"
#include "core/eval/png.h"

namespace diffmoe {
namespace {

constexpr int64_t kWriteIntervalMs = 200;
constexpr uint8_t kGrey = 128;

Image ToImage(const ImageAssembly& image) {
  return {image.height(),
          image.width(),
          image.channels(),
          {image.bytes().begin(), image.bytes().end()}};
}

bool SameSize(const Image& a, const Image& b) {
  return a.height == b.height && a.width == b.width && a.channels == b.channels;
}

}  // namespace

PreviewGrid::PreviewGrid(std::string path, int count, int columns, int scale, const Clock* clock)
    : path_(std::move(path)),
      columns_(columns),
      scale_(scale),
      clock_(*clock),
      parts_(static_cast<size_t>(count)),
      images_(static_cast<size_t>(count)) {}

absl::Status PreviewGrid::Add(const v1::SampleResponse::Image& image) {
  if (image.index() < 0 || static_cast<size_t>(image.index()) >= parts_.size()) {
    return absl::DataLossError(
        absl::StrCat("preview from the coordinator: expected an index from 0 to ",
                     parts_.size() - 1, ", got ", image.index()));
  }
  const auto index = static_cast<size_t>(image.index());
  ImageAssembly& parts = parts_[index];
  // A newer preview replaces one of which a part was dropped.
  if (image.offset() == 0) parts = ImageAssembly();
  if (image.offset() != static_cast<int64_t>(parts.bytes().size())) {
    parts = ImageAssembly();
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(parts.Add(image));
  if (!parts.complete()) return absl::OkStatus();
  Image complete = ToImage(parts);
  parts = ImageAssembly();
  return Set(index, std::move(complete));
}

absl::Status PreviewGrid::SetFinal(int index, const ImageAssembly& image) {
  return Set(static_cast<size_t>(index), ToImage(image));
}

absl::Status PreviewGrid::Set(size_t index, Image image) {
  for (const std::optional<Image>& other : images_) {
    if (other.has_value() && !SameSize(*other, image)) {
      return absl::DataLossError(absl::StrCat(
          "image ", index, " from the coordinator: expected the size of the other previews, ",
          other->height, "x", other->width, "x", other->channels, ", got ", image.height, "x",
          image.width, "x", image.channels));
    }
  }
  images_[index] = std::move(image);
  dirty_ = true;
  if (written_ms_.has_value() && clock_.MonotonicMs() - *written_ms_ < kWriteIntervalMs) {
    return absl::OkStatus();
  }
  return Flush();
}

absl::Status PreviewGrid::Flush() {
  if (!dirty_) return absl::OkStatus();
  Image blank;
  for (const std::optional<Image>& image : images_) {
    if (!image.has_value()) continue;
    blank = *image;
    blank.pixels.assign(blank.pixels.size(), kGrey);
    break;
  }
  std::vector<Image> all;
  for (const std::optional<Image>& image : images_) all.push_back(image.value_or(blank));
  GridOptions options;
  options.columns = columns_;
  options.scale = scale_ > 0 ? scale_ : DefaultScale(blank.height, blank.width);
  ASSIGN_OR_RETURN(const Image grid, MakeGrid(all, options));
  RETURN_IF_ERROR(WritePng(path_, grid));
  dirty_ = false;
  written_ms_ = clock_.MonotonicMs();
  return absl::OkStatus();
}

}  // namespace diffmoe
