// An RGB picture to draw on: rectangles, text, antialiased lines. Everything is clipped to the
// picture. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/data/image.h"

namespace diffmoe {

struct Colour {
  uint8_t red = 0, green = 0, blue = 0;
};

struct Point {
  double x = 0, y = 0;  // pixels from the top left corner; pixel centres lie at whole numbers
};

// Pixels of a text of one line at this scale.
int TextWidth(const std::string& text, int scale);
int TextHeight(int scale);

class Canvas {
 public:
  Canvas(int width, int height, Colour background);

  void FillRectangle(int left, int top, int width, int height, Colour colour);
  void DrawFrame(int left, int top, int width, int height, Colour colour);
  // The text's box begins at (left, top).
  void DrawText(int left, int top, const std::string& text, int scale, Colour colour);
  // Turned by 90 degrees, reading upwards; (left, top) is the corner of the turned box.
  void DrawTextUpwards(int left, int top, const std::string& text, int scale, Colour colour);
  // Straight lines through the points, clipped to the rectangle; one point alone becomes a dot.
  void DrawPolyline(absl::Span<const Point> points, double line_width, Colour colour, int clip_left,
                    int clip_top, int clip_width, int clip_height);

  Image Take() { return std::move(image_); }

 private:
  void Blend(int x, int y, Colour colour, float opacity);

  Image image_;
};

}  // namespace diffmoe
