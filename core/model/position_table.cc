#include "core/model/position_table.h"

#include <cmath>

namespace diffmoe {

std::vector<double> PositionValues(int64_t side, int64_t width) {
  std::vector<double> table(static_cast<size_t>(side * side * width));
  const int64_t quarter = width / 4;
  for (int64_t row = 0; row < side; ++row) {
    for (int64_t column = 0; column < side; ++column) {
      double* token = table.data() + (row * side + column) * width;
      for (int64_t i = 0; i < quarter; ++i) {
        const double omega =
            std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(quarter));
        token[i] = std::sin(static_cast<double>(column) * omega);
        token[quarter + i] = std::cos(static_cast<double>(column) * omega);
        token[2 * quarter + i] = std::sin(static_cast<double>(row) * omega);
        token[3 * quarter + i] = std::cos(static_cast<double>(row) * omega);
      }
    }
  }
  return table;
}

}  // namespace diffmoe
