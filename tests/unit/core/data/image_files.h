// PNG and JPEG files of all kinds, made in memory with libpng and libjpeg.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace diffmoe {

struct PngKind {
  int width = 8, height = 8;
  int colour_type =
      2;  // as in the PNG header: 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGB + alpha
  int depth = 8;
  bool interlaced = false;
  bool transparency = false;  // tRNS: palette entry 0 or the sample value 0 is transparent
};

// `rows`: packed samples of one row after another, as PNG stores them. `palette`: RGB triples.
std::string MakePng(const PngKind& kind, const std::vector<uint8_t>& rows,
                    const std::vector<uint8_t>& palette = {});

struct JpegKind {
  int width = 16, height = 16;
  int components = 3;  // 1 grey, 3 RGB, 4 CMYK
  bool progressive = false;
  int quality = 95;
};

std::string MakeJpeg(const JpegKind& kind, const std::vector<uint8_t>& pixels);

// A smooth picture [height, width, channels] that any codec keeps almost unchanged.
std::vector<uint8_t> Gradient(int height, int width, int channels);

}  // namespace diffmoe
