// A decoded image: uint8 pixels in row-major [height, width, channels] order, channels 1 (grey) or
// 3 (RGB).
#pragma once

#include <cstdint>
#include <vector>

namespace diffmoe {

struct Image {
  int height = 0;
  int width = 0;
  int channels = 0;
  std::vector<uint8_t> pixels;
};

}  // namespace diffmoe
