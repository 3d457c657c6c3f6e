#include "core/eval/png.h"

#include <png.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/atomic_file.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int kMaxSide = 1 << 16;

absl::Status CheckSizes(int height, int width, int channels, size_t pixels) {
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide ||
      (channels != 1 && channels != 3)) {
    return absl::InvalidArgumentError(absl::StrCat("an image is ", height, "x", width, "x",
                                                   channels, ", expected sides from 1 to ",
                                                   kMaxSide, " and 1 or 3 channels"));
  }
  const size_t expected = static_cast<size_t>(height) * width * channels;
  if (pixels != expected) {
    return absl::InvalidArgumentError(absl::StrCat("an image of ", height, "x", width, "x",
                                                   channels, " needs ", expected, " bytes, got ",
                                                   pixels));
  }
  return absl::OkStatus();
}

void AppendBytes(png_structp png, png_bytep data, png_size_t size) {
  static_cast<std::string*>(png_get_io_ptr(png))->append(reinterpret_cast<char*>(data), size);
}
void FlushNothing(png_structp) {}

// setjmp lives alone in this function: it has no object with a destructor, so the jump skips none.
bool EncodeRows(png_structp png, png_infop info, int height, int width, int channels,
                const uint8_t* pixels) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_IHDR(png, info, width, height, 8,
               channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  for (int row = 0; row < height; ++row) {
    png_write_row(png, pixels + static_cast<size_t>(row) * width * channels);
  }
  png_write_end(png, info);
  return true;
}

}  // namespace

absl::StatusOr<std::string> EncodePng(int height, int width, int channels,
                                      absl::Span<const uint8_t> pixels) {
  RETURN_IF_ERROR(CheckSizes(height, width, channels, pixels.size()));
  std::string bytes;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  bool ok = false;
  if (info != nullptr) {
    png_set_write_fn(png, &bytes, AppendBytes, FlushNothing);
    ok = EncodeRows(png, info, height, width, channels, pixels.data());
  }
  png_destroy_write_struct(&png, &info);
  if (!ok) return absl::InternalError("libpng could not encode the image");
  return bytes;
}

absl::Status WritePng(const std::string& path, int height, int width, int channels,
                      absl::Span<const uint8_t> pixels) {
  ASSIGN_OR_RETURN(const std::string bytes, EncodePng(height, width, channels, pixels));
  return WriteFileAtomically(path, bytes);
}

absl::Status WritePng(const std::string& path, const Image& image) {
  return WritePng(path, image.height, image.width, image.channels, image.pixels);
}

absl::StatusOr<Image> MakeGrid(absl::Span<const Image> images, const GridOptions& options) {
  if (images.empty()) return absl::InvalidArgumentError("a grid needs at least one image");
  if (options.columns < 0 || options.gap < 0 || options.gap > 1000 || options.scale < 1 ||
      options.scale > 1000) {
    return absl::InvalidArgumentError("a grid needs columns >= 0, gap 0 to 1000, scale 1 to 1000");
  }
  const Image& first = images[0];
  for (const Image& image : images) {
    RETURN_IF_ERROR(CheckSizes(image.height, image.width, image.channels, image.pixels.size()));
    if (image.height != first.height || image.width != first.width ||
        image.channels != first.channels) {
      return absl::InvalidArgumentError("all images of a grid must have one size");
    }
  }
  const int64_t count = static_cast<int64_t>(images.size());
  const int64_t columns =
      options.columns > 0 ? std::min<int64_t>(options.columns, count)
                          : static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const int64_t rows = (count + columns - 1) / columns;
  const int64_t cell_height = int64_t{first.height} * options.scale + options.gap;
  const int64_t cell_width = int64_t{first.width} * options.scale + options.gap;
  const int64_t height = rows * cell_height + options.gap,
                width = columns * cell_width + options.gap;
  if (height > kMaxSide || width > kMaxSide) {
    return absl::InvalidArgumentError(
        absl::StrCat("a grid of ", height, "x", width, " pixels is over the limit of ", kMaxSide));
  }
  Image grid{static_cast<int>(height), static_cast<int>(width), first.channels, {}};
  grid.pixels.assign(static_cast<size_t>(height * width * first.channels), options.background);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t top = options.gap + i / columns * cell_height;
    const int64_t left = options.gap + i % columns * cell_width;
    for (int64_t y = 0; y < int64_t{first.height} * options.scale; ++y) {
      uint8_t* out = grid.pixels.data() + ((top + y) * width + left) * first.channels;
      const uint8_t* row =
          images[i].pixels.data() + y / options.scale * first.width * first.channels;
      for (int64_t x = 0; x < int64_t{first.width} * options.scale; ++x) {
        std::memcpy(out + x * first.channels, row + x / options.scale * first.channels,
                    first.channels);
      }
    }
  }
  return grid;
}

absl::StatusOr<Image> ImageFromPlanes(int channels, int height, int width,
                                      absl::Span<const float> planes) {
  RETURN_IF_ERROR(CheckSizes(height, width, channels, planes.size()));
  Image image{height, width, channels, std::vector<uint8_t>(planes.size())};
  const size_t area = static_cast<size_t>(height) * width;
  for (int channel = 0; channel < channels; ++channel) {
    for (size_t i = 0; i < area; ++i) {
      const float scaled = (planes[channel * area + i] + 1.0f) * 127.5f;
      // Written so that NaN fails the first comparison.
      const float clamped = scaled > 0.0f ? std::min(scaled, 255.0f) : 0.0f;
      image.pixels[i * channels + channel] = static_cast<uint8_t>(std::lround(clamped));
    }
  }
  return image;
}

}  // namespace diffmoe
