#include "tests/unit/core/data/image_files.h"

#include <png.h>

#include <cstdio>
#include <cstdlib>
// jpeglib.h needs <cstdio>.
#include <jpeglib.h>

namespace diffmoe {

std::string MakePng(const PngKind& kind, const std::vector<uint8_t>& rows,
                    const std::vector<uint8_t>& palette) {
  std::string bytes;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &bytes,
      [](png_structp writer, png_bytep data, png_size_t size) {
        static_cast<std::string*>(png_get_io_ptr(writer))
            ->append(reinterpret_cast<char*>(data), size);
      },
      [](png_structp) {});
  png_set_IHDR(png, info, kind.width, kind.height, kind.depth, kind.colour_type,
               kind.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  std::vector<png_color> colours;
  for (size_t i = 0; i + 2 < palette.size(); i += 3) {
    colours.push_back({palette[i], palette[i + 1], palette[i + 2]});
  }
  if (!colours.empty()) png_set_PLTE(png, info, colours.data(), static_cast<int>(colours.size()));
  png_byte alpha = 0;
  png_color_16 key = {};
  if (kind.transparency) {
    png_set_tRNS(png, info, kind.colour_type == 3 ? &alpha : nullptr, 1,
                 kind.colour_type == 3 ? nullptr : &key);
  }
  png_write_info(png, info);
  const size_t row_bytes = png_get_rowbytes(png, info);
  if (rows.size() != row_bytes * kind.height) std::abort();
  std::vector<uint8_t> copy = rows;
  std::vector<png_bytep> pointers;
  for (int y = 0; y < kind.height; ++y) pointers.push_back(copy.data() + y * row_bytes);
  png_set_interlace_handling(png);
  png_write_image(png, pointers.data());
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return bytes;
}

std::string MakeJpeg(const JpegKind& kind, const std::vector<uint8_t>& pixels) {
  jpeg_compress_struct jpeg;
  jpeg_error_mgr manager;
  jpeg.err = jpeg_std_error(&manager);
  jpeg_create_compress(&jpeg);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &buffer, &size);
  jpeg.image_width = kind.width;
  jpeg.image_height = kind.height;
  jpeg.input_components = kind.components;
  jpeg.in_color_space = kind.components == 1   ? JCS_GRAYSCALE
                        : kind.components == 3 ? JCS_RGB
                                               : JCS_CMYK;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, kind.quality, TRUE);
  if (kind.progressive) jpeg_simple_progression(&jpeg);
  jpeg_start_compress(&jpeg, TRUE);
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = const_cast<JSAMPROW>(pixels.data()) +
                   static_cast<size_t>(jpeg.next_scanline) * kind.width * kind.components;
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  std::string bytes(reinterpret_cast<char*>(buffer), size);
  jpeg_destroy_compress(&jpeg);
  std::free(buffer);
  return bytes;
}

std::vector<uint8_t> Gradient(int height, int width, int channels) {
  std::vector<uint8_t> pixels;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < channels; ++c) {
        pixels.push_back(static_cast<uint8_t>(40 + (150 * x) / width + (40 * y) / height + 8 * c));
      }
    }
  }
  return pixels;
}

}  // namespace diffmoe
