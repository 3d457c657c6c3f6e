#include "client/sample_images.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/pixel_hash.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"
#include "core/eval/png.h"

namespace diffmoe {

SampleImages::SampleImages(int count, v1::ImageEncoding encoding)
    : encoding_(encoding), images_(static_cast<size_t>(count)) {}

absl::Status SampleImages::Add(const v1::SampleResponse::Image& image) {
  const auto count = static_cast<int>(images_.size());
  if (image.index() < 0 || image.index() >= count) {
    return absl::DataLossError(
        absl::StrCat("image from the coordinator: expected an index from 0 to ", count - 1,
                     ", got ", image.index()));
  }
  const bool png = image.encoding() == v1::PNG;
  if (png != (encoding_ == v1::PNG)) {
    return absl::DataLossError(absl::StrCat(
        "image ", image.index(), " from the coordinator: ", "expected encoding ",
        v1::ImageEncoding_Name(encoding_), ", got ", v1::ImageEncoding_Name(image.encoding())));
  }
  ImageAssembly& place = images_[static_cast<size_t>(image.index())];
  RETURN_IF_ERROR(place.Add(image));
  if (place.complete()) ++done_;
  return absl::OkStatus();
}

void SampleImages::Clear() {
  done_ = 0;
  images_.assign(images_.size(), ImageAssembly());
}

absl::Status SampleImages::CheckComplete() const {
  for (size_t i = 0; i < images_.size(); ++i) {
    if (!images_[i].complete()) {
      return absl::DataLossError(
          absl::StrCat("expected ", images_.size(), " images from the coordinator, image ", i,
                       images_[i].started() ? " is cut off" : " is missing"));
    }
    if (images_[i].SizeText() != images_[0].SizeText()) {
      return absl::DataLossError(absl::StrCat("image ", i, " from the coordinator: expected size ",
                                              images_[0].SizeText(), ", got ",
                                              images_[i].SizeText()));
    }
  }
  return absl::OkStatus();
}

absl::Status SampleImages::CheckAgainst(const v1::Receipt& receipt) const {
  RETURN_IF_ERROR(CheckComplete());
  if (encoding_ == v1::PNG || receipt.image_hashes().empty()) return absl::OkStatus();
  if (receipt.image_hashes_size() != static_cast<int>(images_.size())) {
    return absl::DataLossError(absl::StrCat("receipt from the coordinator: expected ",
                                            images_.size(), " image hashes, got ",
                                            receipt.image_hashes_size()));
  }
  for (size_t i = 0; i < images_.size(); ++i) {
    const std::string hash = Xxh3Hex(images_[i].bytes());
    const std::string& expected = receipt.image_hashes(static_cast<int>(i));
    if (hash != expected) {
      return absl::DataLossError(absl::StrCat("image ", i, " from the coordinator: expected hash ",
                                              expected, " as in the receipt, got ", hash));
    }
  }
  return absl::OkStatus();
}

absl::Status SampleImages::WriteGrid(const std::string& path, int columns, int scale) const {
  ASSIGN_OR_RETURN(const std::vector<Image> images, All());
  if (images.empty()) return absl::InvalidArgumentError("expected images for a grid, got none");
  GridOptions options;
  options.columns = columns;
  options.scale = scale > 0 ? scale : DefaultScale(images[0].height, images[0].width);
  ASSIGN_OR_RETURN(const Image grid, MakeGrid(images, options));
  return WritePng(path, grid);
}

absl::Status SampleImages::WriteRaw(const std::string& path) const {
  RETURN_IF_ERROR(CheckComplete());
  std::string bytes;
  for (const ImageAssembly& image : images_) bytes.append(image.bytes());
  return WriteFileAtomically(path, bytes);
}

absl::Status SampleImages::WritePngFiles(const std::string& directory) const {
  if (encoding_ != v1::PNG) return absl::InternalError("expected PNG images, have raw ones");
  RETURN_IF_ERROR(CheckComplete());
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return FileError(error.value(), "make directory", directory);
  for (size_t i = 0; i < images_.size(); ++i) {
    RETURN_IF_ERROR(
        WriteFileAtomically(absl::StrFormat("%s/%05d.png", directory, i), images_[i].bytes()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Image>> SampleImages::All() const {
  RETURN_IF_ERROR(CheckComplete());
  if (encoding_ == v1::PNG) return absl::InternalError("expected raw images, have PNG files");
  std::vector<Image> all;
  for (const ImageAssembly& image : images_) {
    all.push_back({image.height(),
                   image.width(),
                   image.channels(),
                   {image.bytes().begin(), image.bytes().end()}});
  }
  return all;
}

absl::StatusOr<std::vector<std::string>> SampleImages::Hashes() const {
  RETURN_IF_ERROR(CheckComplete());
  std::vector<std::string> hashes;
  for (const ImageAssembly& image : images_) hashes.push_back(Xxh3Hex(image.bytes()));
  return hashes;
}

std::string SampleImages::ShapeText() const {
  if (images_.empty()) return "[0]";
  return absl::StrCat("[", images_.size(), ", ", images_[0].height(), ", ", images_[0].width(),
                      ", ", images_[0].channels(), "]");
}

int DefaultScale(int height, int width) { return std::max(height, width) <= 64 ? 2 : 1; }

}  // namespace diffmoe
