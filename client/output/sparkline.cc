#include "client/output/sparkline.h"

#include <algorithm>
#include <cmath>

namespace diffmoe {

std::string Sparkline(const std::vector<double>& values, size_t width) {
  static constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const size_t first = values.size() > width ? values.size() - width : 0;
  double least = INFINITY, most = -INFINITY;
  for (size_t i = first; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) continue;
    least = std::min(least, values[i]);
    most = std::max(most, values[i]);
  }
  std::string line;
  for (size_t i = first; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      line += "!";
      continue;
    }
    const double share = most > least ? (values[i] - least) / (most - least) : 0;
    line += kBlocks[std::clamp(static_cast<int>(share * 8), 0, 7)];
  }
  return line;
}

}  // namespace diffmoe
