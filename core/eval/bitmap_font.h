// A built-in 5x7 bitmap font for printable ASCII.
#pragma once

#include <array>
#include <cstdint>

namespace diffmoe {

constexpr int kGlyphWidth = 5;
constexpr int kGlyphHeight = 7;

// Seven rows from top to bottom; bit 4 is the leftmost pixel. Characters outside 32..126 give the
// glyph of '?'.
const std::array<uint8_t, kGlyphHeight>& Glyph(char c);

}  // namespace diffmoe
