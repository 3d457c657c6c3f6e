// A line plot as a picture: axes with ticks, a title, a legend, one coloured line per series.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/eval/png.h"

namespace diffmoe {

struct LineSeries {
  std::string name;  // shown in the legend when there is more than one series, or when not empty
  std::vector<double> x;
  std::vector<double>
      y;  // as many as x; points that aren't finite (or not positive on a log axis) break the line
};

struct LinePlotOptions {
  std::string title = "";
  std::string x_label = "";
  std::string y_label = "";
  bool log_y = false;
  int width = 900;   // pixels, 200 to 8192
  int height = 540;  // pixels, 150 to 8192
};

// Text is drawn in printable ASCII; other characters become '?'. INVALID_ARGUMENT when no series
// has a point that can be drawn, when x and y differ in length, or when a size is out of range.
absl::StatusOr<Image> DrawLinePlot(absl::Span<const LineSeries> series,
                                   const LinePlotOptions& options);

// The same as a PNG file, whole or not at all.
absl::Status WriteLinePlot(const std::string& path, absl::Span<const LineSeries> series,
                           const LinePlotOptions& options);

}  // namespace diffmoe
