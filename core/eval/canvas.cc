#include "core/eval/canvas.h"

#include <algorithm>
#include <cmath>

#include "core/eval/bitmap_font.h"

namespace diffmoe {
namespace {

double DistanceToSegment(double x, double y, const Point& a, const Point& b) {
  const double dx = b.x - a.x, dy = b.y - a.y;
  const double length2 = dx * dx + dy * dy;
  const double along =
      length2 > 0 ? std::clamp(((x - a.x) * dx + (y - a.y) * dy) / length2, 0.0, 1.0) : 0.0;
  return std::hypot(x - a.x - along * dx, y - a.y - along * dy);
}

// Calls set(x, y) for each pixel of the text in its unturned box.
template <typename Set>
void ForEachTextPixel(const std::string& text, int scale, Set set) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto& rows = Glyph(text[i]);
    const int glyph_left = static_cast<int>(i) * (kGlyphWidth + 1) * scale;
    for (int y = 0; y < kGlyphHeight * scale; ++y) {
      for (int x = 0; x < kGlyphWidth * scale; ++x) {
        if (rows[y / scale] >> (kGlyphWidth - 1 - x / scale) & 1) set(glyph_left + x, y);
      }
    }
  }
}

}  // namespace

int TextWidth(const std::string& text, int scale) {
  return text.empty() ? 0 : (static_cast<int>(text.size()) * (kGlyphWidth + 1) - 1) * scale;
}
int TextHeight(int scale) { return kGlyphHeight * scale; }

Canvas::Canvas(int width, int height, Colour background) : image_{height, width, 3, {}} {
  image_.pixels.resize(static_cast<size_t>(width) * height * 3);
  FillRectangle(0, 0, width, height, background);
}

void Canvas::Blend(int x, int y, Colour colour, float opacity) {
  if (x < 0 || y < 0 || x >= image_.width || y >= image_.height) return;
  uint8_t* pixel = image_.pixels.data() + (static_cast<size_t>(y) * image_.width + x) * 3;
  const uint8_t target[3] = {colour.red, colour.green, colour.blue};
  for (int c = 0; c < 3; ++c) {
    const float mixed =
        static_cast<float>(pixel[c]) * (1 - opacity) + static_cast<float>(target[c]) * opacity;
    pixel[c] = static_cast<uint8_t>(std::lround(mixed));
  }
}

void Canvas::FillRectangle(int left, int top, int width, int height, Colour colour) {
  for (int y = std::max(top, 0); y < std::min(top + height, image_.height); ++y) {
    for (int x = std::max(left, 0); x < std::min(left + width, image_.width); ++x) {
      Blend(x, y, colour, 1.0f);
    }
  }
}

void Canvas::DrawFrame(int left, int top, int width, int height, Colour colour) {
  FillRectangle(left, top, width, 1, colour);
  FillRectangle(left, top + height - 1, width, 1, colour);
  FillRectangle(left, top, 1, height, colour);
  FillRectangle(left + width - 1, top, 1, height, colour);
}

void Canvas::DrawText(int left, int top, const std::string& text, int scale, Colour colour) {
  ForEachTextPixel(text, scale, [&](int x, int y) { Blend(left + x, top + y, colour, 1.0f); });
}

void Canvas::DrawTextUpwards(int left, int top, const std::string& text, int scale, Colour colour) {
  const int length = TextWidth(text, scale);
  ForEachTextPixel(text, scale,
                   [&](int x, int y) { Blend(left + y, top + length - 1 - x, colour, 1.0f); });
}

void Canvas::DrawPolyline(absl::Span<const Point> points, double line_width, Colour colour,
                          int clip_left, int clip_top, int clip_width, int clip_height) {
  if (points.empty()) return;
  // Coverage first, colour once: segments that meet or cross must not darken each other.
  std::vector<float> coverage(static_cast<size_t>(clip_width) * clip_height, 0.0f);
  const double reach = points.size() == 1 ? line_width : line_width / 2;
  const size_t segments = std::max<size_t>(points.size() - 1, 1);
  for (size_t i = 0; i < segments; ++i) {
    const Point& a = points[i];
    const Point& b = points[std::min(i + 1, points.size() - 1)];
    const int top = std::max(clip_top, static_cast<int>(std::floor(std::min(a.y, b.y) - reach)));
    const int bottom = std::min(clip_top + clip_height - 1,
                                static_cast<int>(std::ceil(std::max(a.y, b.y) + reach)));
    const int left = std::max(clip_left, static_cast<int>(std::floor(std::min(a.x, b.x) - reach)));
    const int right = std::min(clip_left + clip_width - 1,
                               static_cast<int>(std::ceil(std::max(a.x, b.x) + reach)));
    for (int y = top; y <= bottom; ++y) {
      for (int x = left; x <= right; ++x) {
        const double covered = std::clamp(reach + 0.5 - DistanceToSegment(x, y, a, b), 0.0, 1.0);
        float& cell = coverage[static_cast<size_t>(y - clip_top) * clip_width + (x - clip_left)];
        cell = std::max(cell, static_cast<float>(covered));
      }
    }
  }
  for (int y = 0; y < clip_height; ++y) {
    for (int x = 0; x < clip_width; ++x) {
      const float covered = coverage[static_cast<size_t>(y) * clip_width + x];
      if (covered > 0) Blend(clip_left + x, clip_top + y, colour, covered);
    }
  }
}

}  // namespace diffmoe
