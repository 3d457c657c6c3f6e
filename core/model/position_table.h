// The fixed embedding of token positions. Torch-free.
#pragma once

#include <cstdint>
#include <vector>

namespace diffmoe {

// [side * side, width], tokens in row-major order; width a multiple of 4. The first half of the
// channels encodes the column, the second half the row; sines, then cosines of position / 10000^(4
// i / width) (arXiv 2212.09748).
std::vector<double> PositionValues(int64_t side, int64_t width);

}  // namespace diffmoe
