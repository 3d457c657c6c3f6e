// A row of numbers as a row of block characters.
#pragma once

#include <string>
#include <vector>

namespace diffmoe {

// At most `width` characters, the newest values when there are more; the least value is the lowest
// block, the largest the highest. Values that are not finite are shown as '!'.
std::string Sparkline(const std::vector<double>& values, size_t width);

}  // namespace diffmoe
