// Plots as SVG elements for a page that defines the classes of kPlotStyle. Pure functions; all text
// is escaped, nothing refers to anything outside.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace diffmoe {

// Text for the inside of an element or a quoted attribute: & < > " ' are escaped, control
// characters other than line breaks and tabs become '?', bytes that aren't UTF-8 become U+FFFD.
std::string EscapeHtml(absl::string_view text);

struct SvgSeries {
  std::string name = "";               // in the legend; empty: not there
  std::vector<double> x = {}, y = {};  // as many; points that aren't finite (or not positive on a
                                       // log axis) break the line
  bool faint = false;                  // thin and pale: behind another one
  bool points = false;                 // a dot at each point too
};

struct SvgPlotOptions {
  std::string title = "";
  std::string x_label = "";
  std::string y_label = "";
  bool log_y = false;
  bool y_from_zero = false;  // of a linear axis
};

// A figure with axes, ticks and a legend. Series of more than some hundred points are thinned so
// that peaks stay. Says so when no point can be drawn.
std::string SvgLinePlot(absl::Span<const SvgSeries> series, const SvgPlotOptions& options);

struct SvgHeatMap {
  std::string title = "";
  std::string column_label = "";
  std::vector<std::string> rows = {};  // names
  std::vector<std::vector<double>> values =
      {};             // [rows][columns]; a value that isn't finite stays empty
  double middle = 1;  // this value is pale; below and above have a hue each
  double limit = 2;   // this value, and 2 * middle - limit, are full
};
std::string SvgHeatMapPlot(const SvgHeatMap& map);

// CSS of the plots, for light and dark pages and for print.
extern const char kPlotStyle[];

}  // namespace diffmoe
