#include <png.h>

#include <csetjmp>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/data/image_decode.h"

namespace diffmoe {
namespace {

struct PngState {
  std::string_view unread;
  char error[128] = "";
  std::vector<uint8_t> raw;  // rows as libpng gives them
  std::vector<png_bytep> rows;
  png_uint_32 width = 0, height = 0;
  int channels = 0;  // 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha
};

void OnError(png_structp png, png_const_charp message) {
  auto* state = static_cast<PngState*>(png_get_error_ptr(png));
  std::strncpy(state->error, message, sizeof(state->error) - 1);
  png_longjmp(png, 1);
}
void OnWarning(png_structp, png_const_charp) {}

void ReadBytes(png_structp png, png_bytep out, png_size_t size) {
  auto* state = static_cast<PngState*>(png_get_io_ptr(png));
  if (size > state->unread.size()) png_error(png, "the file is truncated");
  std::memcpy(out, state->unread.data(), size);
  state->unread.remove_prefix(size);
}

// Reads the header and asks libpng for 8-bit grey or RGB with or without alpha. No object with a
// destructor lives here or in ReadPixels: a jump out of libpng skips none.
bool ReadHeader(png_structp png, png_infop info, PngState* state, int64_t max_pixels) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_read_info(png, info);
  state->width = png_get_image_width(png, info);
  state->height = png_get_image_height(png, info);
  if (static_cast<int64_t>(state->width) > max_pixels / state->height) {
    png_error(png, "the image has too many pixels");
  }
  png_set_expand(png);
  png_set_scale_16(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  state->channels = png_get_channels(png, info);
  const size_t row_bytes = static_cast<size_t>(state->width) * state->channels;
  if (png_get_rowbytes(png, info) != row_bytes) png_error(png, "unexpected row size");
  return true;
}

bool ReadPixels(png_structp png, PngState* state) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_read_image(png, state->rows.data());
  png_read_end(png, nullptr);
  return true;
}

// Composites on white where there is alpha.
Image ToImage(const PngState& state) {
  const bool alpha = state.channels == 2 || state.channels == 4;
  const int colours = alpha ? state.channels - 1 : state.channels;
  Image image{static_cast<int>(state.height), static_cast<int>(state.width), colours, {}};
  const size_t count = static_cast<size_t>(state.width) * state.height;
  if (!alpha) {
    image.pixels = state.raw;
    return image;
  }
  image.pixels.resize(count * colours);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* pixel = state.raw.data() + i * state.channels;
    const int opacity = pixel[colours];
    for (int c = 0; c < colours; ++c) {
      image.pixels[i * colours + c] =
          static_cast<uint8_t>((pixel[c] * opacity + 255 * (255 - opacity) + 127) / 255);
    }
  }
  return image;
}

}  // namespace

absl::StatusOr<Image> DecodePng(std::string_view bytes, int64_t max_pixels) {
  PngState state;
  state.unread = bytes;
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &state, OnError, OnWarning);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  bool ok = false;
  if (info != nullptr) {
    png_set_read_fn(png, &state, ReadBytes);
    // Bounds what compressed text and profile chunks may take; they are not used.
    png_set_chunk_malloc_max(png, 8 << 20);
    png_set_chunk_cache_max(png, 128);
    ok = ReadHeader(png, info, &state, max_pixels);
    if (ok) {
      const size_t row_bytes = static_cast<size_t>(state.width) * state.channels;
      state.raw.resize(row_bytes * state.height);
      for (png_uint_32 row = 0; row < state.height; ++row) {
        state.rows.push_back(state.raw.data() + row * row_bytes);
      }
      ok = ReadPixels(png, &state);
    }
  }
  png_destroy_read_struct(&png, &info, nullptr);
  if (!ok) return absl::InvalidArgumentError(absl::StrCat("PNG: ", state.error));
  return ToImage(state);
}

}  // namespace diffmoe
