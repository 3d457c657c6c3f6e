#include "core/eval/line_plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/eval/canvas.h"

namespace diffmoe {
namespace {

constexpr Colour kWhite{255, 255, 255}, kInk{40, 44, 52}, kGrid{228, 231, 236},
    kAxis{120, 126, 136};
// Okabe and Ito's colours, which colour-blind readers can tell apart.
constexpr Colour kPalette[] = {{0, 114, 178}, {213, 94, 0},   {0, 158, 115},  {204, 121, 167},
                               {230, 159, 0}, {86, 180, 233}, {110, 64, 170}, {80, 80, 80}};
constexpr int kTextScale = 2;
constexpr int kTicks = 8;

// One axis: values to pixels, and where its ticks are.
struct Axis {
  double low = 0, high = 1;  // logarithms on a log axis
  bool log = false;
  std::vector<double> ticks;  // values

  double Fraction(double value) const {
    return ((log ? std::log10(value) : value) - low) / (high - low);
  }
};

bool CanDraw(double x, double y, bool log_y) {
  return std::isfinite(x) && std::isfinite(y) && (!log_y || y > 0);
}

// About kTicks round numbers (1, 2 or 5 times a power of ten) within [low, high].
std::vector<double> RoundTicks(double low, double high) {
  const double rough = (high - low) / kTicks;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> ticks;
  const double slack = step * 1e-9;
  for (double i = std::ceil((low - slack) / step); i * step <= high + slack; ++i) {
    ticks.push_back(i == 0 ? 0.0 : i * step);
  }
  return ticks;
}

// Powers of ten, with 2 and 5 between when there are few; round numbers when the range is below one
// decade.
std::vector<double> LogTicks(double low, double high) {
  std::vector<double> ticks;
  const int first = static_cast<int>(std::floor(low)), last = static_cast<int>(std::ceil(high));
  const int stride = std::max(1, (last - first) / 8);
  const bool fine = high - low < 3;
  for (int decade = first; decade <= last; decade += stride) {
    for (double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10.0, decade);
      const double place = std::log10(tick);
      if ((factor == 1.0 || fine) && place >= low - 1e-9 && place <= high + 1e-9)
        ticks.push_back(tick);
    }
  }
  return ticks.size() >= 3 ? ticks : RoundTicks(std::pow(10.0, low), std::pow(10.0, high));
}

absl::StatusOr<Axis> MakeAxis(double low, double high, bool log, double margin) {
  Axis axis;
  axis.log = log;
  axis.low = log ? std::log10(low) : low;
  axis.high = log ? std::log10(high) : high;
  if (axis.high - axis.low < 1e-12 * std::max(std::abs(axis.low), 1e-30)) {
    const double half = log ? 0.5 : std::max(std::abs(axis.low) * 0.1, 1e-6);
    axis.low -= half;
    axis.high += half;
  }
  const double padding = (axis.high - axis.low) * margin;
  axis.low -= padding;
  axis.high += padding;
  if (!std::isfinite(axis.high - axis.low)) {
    return absl::InvalidArgumentError("the values of a plot span more than a double can hold");
  }
  axis.ticks = log ? LogTicks(axis.low, axis.high) : RoundTicks(axis.low, axis.high);
  return axis;
}

std::string TickText(double value) { return absl::StrFormat("%.6g", value); }

int WidestTick(const Axis& axis) {
  int widest = 0;
  for (double tick : axis.ticks) widest = std::max(widest, TextWidth(TickText(tick), kTextScale));
  return widest;
}

// The rectangle that holds the lines, and the picture around it.
class Plot {
 public:
  Plot(const LinePlotOptions& options, Axis x, Axis y)
      : options_(options),
        x_(std::move(x)),
        y_(std::move(y)),
        canvas_(options.width, options.height, kWhite) {
    const int line = TextHeight(kTextScale);
    left_ = 16 + (options.y_label.empty() ? 0 : line + 12) + WidestTick(y_) + 10;
    top_ = 18 + (options.title.empty() ? 0 : TextHeight(3) + 14);
    width_ = std::max(40, options.width - left_ - 28);
    height_ = std::max(
        40, options.height - top_ - 14 - line - 14 - (options.x_label.empty() ? 0 : line + 12));
  }

  void DrawAxes() {
    for (double tick : y_.ticks) {
      const int y = PixelY(tick);
      const std::string text = TickText(tick);
      canvas_.FillRectangle(left_, y, width_, 1, kGrid);
      canvas_.DrawText(left_ - 10 - TextWidth(text, kTextScale), y - TextHeight(kTextScale) / 2,
                       text, kTextScale, kInk);
    }
    int free_from = 0;  // labels that would touch the one before are left out
    for (double tick : x_.ticks) {
      const int x = PixelX(tick);
      const std::string text = TickText(tick);
      const int text_width = TextWidth(text, kTextScale);
      const int text_left = std::min(x - text_width / 2, options_.width - text_width - 2);
      canvas_.FillRectangle(x, top_, 1, height_, kGrid);
      if (text_left < free_from) continue;
      canvas_.DrawText(text_left, top_ + height_ + 10, text, kTextScale, kInk);
      free_from = text_left + text_width + 12;
    }
    canvas_.FillRectangle(left_, top_, 1, height_, kAxis);
    canvas_.FillRectangle(left_, top_ + height_ - 1, width_, 1, kAxis);
  }

  void DrawTexts() {
    const int title_scale = TextWidth(options_.title, 3) <= options_.width - 20 ? 3 : kTextScale;
    canvas_.DrawText(std::max(4, left_ + (width_ - TextWidth(options_.title, title_scale)) / 2), 14,
                     options_.title, title_scale, kInk);
    canvas_.DrawText(left_ + (width_ - TextWidth(options_.x_label, kTextScale)) / 2,
                     options_.height - TextHeight(kTextScale) - 12, options_.x_label, kTextScale,
                     kInk);
    canvas_.DrawTextUpwards(14, top_ + (height_ - TextWidth(options_.y_label, kTextScale)) / 2,
                            options_.y_label, kTextScale, kInk);
  }

  void DrawSeries(const LineSeries& series, Colour colour) {
    std::vector<Point> run;
    for (size_t i = 0; i <= series.x.size(); ++i) {
      if (i < series.x.size() && CanDraw(series.x[i], series.y[i], y_.log)) {
        run.push_back({left_ + x_.Fraction(series.x[i]) * (width_ - 1),
                       top_ + (1 - y_.Fraction(series.y[i])) * (height_ - 1)});
      } else {
        canvas_.DrawPolyline(run, 2.0, colour, left_, top_, width_, height_);
        run.clear();
      }
    }
  }

  void DrawLegend(absl::Span<const LineSeries> series) {
    int widest = 0, rows = 0;
    for (const LineSeries& one : series) {
      if (one.name.empty()) continue;
      widest = std::max(widest, TextWidth(one.name, kTextScale));
      ++rows;
    }
    if (rows == 0) return;
    const int row_height = TextHeight(kTextScale) + 8;
    const int box_width = widest + 56, box_height = rows * row_height + 12;
    const int box_left = left_ + width_ - box_width - 10, box_top = top_ + 10;
    canvas_.FillRectangle(box_left, box_top, box_width, box_height, kWhite);
    canvas_.DrawFrame(box_left, box_top, box_width, box_height, kGrid);
    int row = 0;
    for (size_t i = 0; i < series.size(); ++i) {
      if (series[i].name.empty()) continue;
      const int y = box_top + 10 + row++ * row_height;
      canvas_.FillRectangle(box_left + 10, y + TextHeight(kTextScale) / 2 - 1, 28, 3,
                            kPalette[i % std::size(kPalette)]);
      canvas_.DrawText(box_left + 46, y, series[i].name, kTextScale, kInk);
    }
  }

  Image Take() { return canvas_.Take(); }

 private:
  int PixelX(double value) const {
    return left_ + static_cast<int>(std::lround(x_.Fraction(value) * (width_ - 1)));
  }
  int PixelY(double value) const {
    return top_ + static_cast<int>(std::lround((1 - y_.Fraction(value)) * (height_ - 1)));
  }

  const LinePlotOptions& options_;
  Axis x_, y_;
  Canvas canvas_;
  int left_, top_, width_, height_;
};

}  // namespace

absl::StatusOr<Image> DrawLinePlot(absl::Span<const LineSeries> series,
                                   const LinePlotOptions& options) {
  if (options.width < 200 || options.width > 8192 || options.height < 150 ||
      options.height > 8192) {
    return absl::InvalidArgumentError(absl::StrCat("a plot is ", options.width, "x", options.height,
                                                   " pixels, expected 200x150 to 8192x8192"));
  }
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double x_low = kInfinity, x_high = -kInfinity, y_low = kInfinity, y_high = -kInfinity;
  for (const LineSeries& one : series) {
    if (one.x.size() != one.y.size()) {
      return absl::InvalidArgumentError(absl::StrCat("series '", one.name, "' has ", one.x.size(),
                                                     " x values and ", one.y.size(), " y values"));
    }
    for (size_t i = 0; i < one.x.size(); ++i) {
      if (!CanDraw(one.x[i], one.y[i], options.log_y)) continue;
      x_low = std::min(x_low, one.x[i]);
      x_high = std::max(x_high, one.x[i]);
      y_low = std::min(y_low, one.y[i]);
      y_high = std::max(y_high, one.y[i]);
    }
  }
  if (x_low > x_high) {
    return absl::InvalidArgumentError("a plot needs at least one point that can be drawn");
  }
  ASSIGN_OR_RETURN(Axis x, MakeAxis(x_low, x_high, false, 0));
  ASSIGN_OR_RETURN(Axis y, MakeAxis(y_low, y_high, options.log_y, 0.05));
  Plot plot(options, std::move(x), std::move(y));
  plot.DrawAxes();
  for (size_t i = 0; i < series.size(); ++i) {
    plot.DrawSeries(series[i], kPalette[i % std::size(kPalette)]);
  }
  plot.DrawLegend(series);
  plot.DrawTexts();
  return plot.Take();
}

absl::Status WriteLinePlot(const std::string& path, absl::Span<const LineSeries> series,
                           const LinePlotOptions& options) {
  ASSIGN_OR_RETURN(const Image image, DrawLinePlot(series, options));
  return WritePng(path, image);
}

}  // namespace diffmoe
