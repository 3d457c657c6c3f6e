#include "client/report/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace diffmoe {
namespace {

constexpr double kWidth = 640, kHeight = 300;
constexpr double kLeft = 62, kRight = 12, kTop = 10, kBottom = 40;
constexpr int kColours = 8;
constexpr size_t kMaxPoints = 600;
constexpr int kMaxTicks = 6;

std::string Number(double value) { return absl::StrFormat("%.4g", value); }
std::string Place(double value) { return absl::StrFormat("%.1f", value); }

// Bytes of the UTF-8 character at `at`; 0 when there is none.
size_t CharacterLength(absl::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned first = byte(at);
  const size_t length = first < 0x80                     ? 1
                        : first >= 0xC2 && first < 0xE0  ? 2
                        : (first & 0xF0) == 0xE0         ? 3
                        : first >= 0xF0 && first <= 0xF4 ? 4
                                                         : 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  }
  if (first == 0xE0 && byte(at + 1) < 0xA0) return 0;   // overlong
  if (first == 0xED && byte(at + 1) >= 0xA0) return 0;  // surrogate
  if (first == 0xF0 && byte(at + 1) < 0x90) return 0;
  if (first == 0xF4 && byte(at + 1) >= 0x90) return 0;
  return length;
}

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void Add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

bool Drawable(double x, double y, bool log_y) {
  return std::isfinite(x) && std::isfinite(y) && (!log_y || y > 0);
}

// Fewer points: of each group the smallest and the largest, in their order.
SvgSeries Thin(const SvgSeries& series) {
  if (series.x.size() <= kMaxPoints) return series;
  SvgSeries thin = series;
  thin.x.clear();
  thin.y.clear();
  const size_t groups = kMaxPoints / 2;
  for (size_t group = 0; group < groups; ++group) {
    const size_t begin = group * series.x.size() / groups;
    const size_t end = (group + 1) * series.x.size() / groups;
    size_t least = begin, most = begin;
    bool broken = false;
    for (size_t i = begin; i < end; ++i) {
      broken = broken || !std::isfinite(series.y[i]);
      if (!(series.y[i] >= series.y[least])) least = i;
      if (!(series.y[i] <= series.y[most])) most = i;
    }
    if (broken) most = least;  // not finite: a gap
    for (const size_t i : {std::min(least, most), std::max(least, most)}) {
      thin.x.push_back(series.x[i]);
      thin.y.push_back(series.y[i]);
    }
  }
  return thin;
}

std::vector<double> LinearTicks(const Range& range) {
  const double span = range.high - range.low;
  double step = std::pow(10, std::floor(std::log10(span)));
  for (const double factor : {0.1, 0.2, 0.5, 1.0, 2.0, 5.0}) {
    if (span / (step * factor) <= kMaxTicks) {
      step *= factor;
      break;
    }
  }
  std::vector<double> ticks;
  for (double i = std::ceil(range.low / step - 1e-9); i * step <= range.high + step * 1e-9; ++i) {
    ticks.push_back(i * step + 0.0);  // not -0
  }
  return ticks;
}

std::vector<double> LogTicks(const Range& range) {
  const int decades = static_cast<int>(std::ceil(std::log10(range.high / range.low)));
  std::vector<double> ticks;
  const int every = std::max(1, decades / kMaxTicks + (decades % kMaxTicks != 0 ? 1 : 0));
  for (int power = static_cast<int>(std::floor(std::log10(range.low)));
       std::pow(10, power) <= range.high; ++power) {
    if (power % every != 0) continue;
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (factor > 1 && decades > 2) continue;
      const double tick = factor * std::pow(10, power);
      if (tick >= range.low * 0.999 && tick <= range.high * 1.001) ticks.push_back(tick);
    }
  }
  return ticks;
}

class Axes {
 public:
  Axes(absl::Span<const SvgSeries> series, const SvgPlotOptions& options) : options_(options) {
    for (const SvgSeries& one : series) {
      for (size_t i = 0; i < std::min(one.x.size(), one.y.size()); ++i) {
        if (!Drawable(one.x[i], one.y[i], options.log_y)) continue;
        x_.Add(one.x[i]);
        y_.Add(one.y[i]);
      }
    }
    if (x_.empty()) return;
    if (options.y_from_zero && !options.log_y) y_.Add(0);
    if (x_.low == x_.high) {
      x_.low -= 0.5;
      x_.high += 0.5;
    }
    if (y_.low == y_.high) {
      const double margin = options.log_y ? y_.low / 2 : std::max(0.5, std::abs(y_.low) / 10);
      y_ = {y_.low - margin, y_.high + margin};
    }
  }
  bool empty() const { return x_.empty(); }

  double X(double x) const {
    return kLeft + (x - x_.low) / (x_.high - x_.low) * (kWidth - kLeft - kRight);
  }
  double Y(double y) const {
    const auto scale = [this](double value) { return options_.log_y ? std::log10(value) : value; };
    const double share = (scale(y) - scale(y_.low)) / (scale(y_.high) - scale(y_.low));
    return kHeight - kBottom - share * (kHeight - kTop - kBottom);
  }

  std::string ToString() const {
    std::string svg;
    for (const double tick : options_.log_y ? LogTicks(y_) : LinearTicks(y_)) {
      const std::string y = Place(Y(tick));
      absl::StrAppend(&svg, "<line class=\"grid\" x1=\"", kLeft, "\" x2=\"", kWidth - kRight,
                      "\" y1=\"", y, "\" y2=\"", y, "\"/><text class=\"end\" x=\"", kLeft - 6,
                      "\" y=\"", y, "\" dy=\"4\">", Number(tick), "</text>\n");
    }
    for (const double tick : LinearTicks(x_)) {
      const std::string x = Place(X(tick));
      absl::StrAppend(&svg, "<line class=\"grid\" x1=\"", x, "\" x2=\"", x, "\" y1=\"", kTop,
                      "\" y2=\"", kHeight - kBottom, "\"/><text class=\"middle\" x=\"", x,
                      "\" y=\"", kHeight - kBottom + 16, "\">", Number(tick), "</text>\n");
    }
    absl::StrAppend(&svg, "<text class=\"middle\" x=\"", (kLeft + kWidth - kRight) / 2, "\" y=\"",
                    kHeight - 6, "\">", EscapeHtml(options_.x_label),
                    "</text><text class=\"middle\" transform=\"translate(13 ",
                    (kTop + kHeight - kBottom) / 2, ") rotate(-90)\">",
                    EscapeHtml(options_.y_label), "</text>\n");
    return svg;
  }

 private:
  const SvgPlotOptions& options_;
  Range x_, y_;
};

std::string Line(const SvgSeries& series, const Axes& axes, bool log_y, int colour) {
  const std::string name = absl::StrCat("c", colour % kColours, series.faint ? " faint" : "");
  std::string path, dots;
  bool pen_down = false;
  for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
    if (!Drawable(series.x[i], series.y[i], log_y)) {
      pen_down = false;
      continue;
    }
    const std::string x = Place(axes.X(series.x[i])), y = Place(axes.Y(series.y[i]));
    absl::StrAppend(&path, pen_down ? "L" : "M", x, " ", y);
    if (series.points) {
      absl::StrAppend(&dots, "<circle class=\"", name, "\" cx=\"", x, "\" cy=\"", y,
                      "\" r=\"3\"/>");
    }
    pen_down = true;
  }
  return absl::StrCat("<path class=\"", name, "\" d=\"", path, "\"/>", dots, "\n");
}

std::string Legend(absl::Span<const SvgSeries> series) {
  std::string items;
  for (size_t i = 0; i < series.size(); ++i) {
    if (series[i].name.empty()) continue;
    absl::StrAppend(&items, "<span><i class=\"c", i % kColours, series[i].faint ? " faint" : "",
                    "\"></i>", EscapeHtml(series[i].name), "</span> ");
  }
  return items.empty() ? "" : absl::StrCat("<div class=\"legend\">", items, "</div>");
}

std::string Figure(const std::string& title, const std::string& content) {
  return absl::StrCat("<figure><figcaption>", EscapeHtml(title), "</figcaption>\n", content,
                      "</figure>\n");
}

}  // namespace

std::string EscapeHtml(absl::string_view text) {
  std::string safe;
  for (size_t i = 0; i < text.size();) {
    const size_t length = CharacterLength(text, i);
    const char c = text[i];
    if (length == 0) {
      safe += "\xEF\xBF\xBD";
    } else if (length > 1) {
      absl::StrAppend(&safe, text.substr(i, length));
    } else if (c == '&') {
      safe += "&amp;";
    } else if (c == '<') {
      safe += "&lt;";
    } else if (c == '>') {
      safe += "&gt;";
    } else if (c == '"') {
      safe += "&quot;";
    } else if (c == '\'') {
      safe += "&#39;";
    } else {
      safe += (c < ' ' && c != '\n' && c != '\t') || c == '\x7F' ? '?' : c;
    }
    i += std::max<size_t>(1, length);
  }
  return safe;
}

std::string SvgLinePlot(absl::Span<const SvgSeries> series, const SvgPlotOptions& options) {
  std::vector<SvgSeries> thin;
  for (const SvgSeries& one : series) thin.push_back(Thin(one));
  const Axes axes(thin, options);
  if (axes.empty()) return Figure(options.title, "<p class=\"none\">Nothing was recorded.</p>\n");
  std::string svg =
      absl::StrCat("<svg viewBox=\"0 0 ", kWidth, " ", kHeight, "\" role=\"img\" aria-label=\"",
                   EscapeHtml(options.title), "\">\n", axes.ToString());
  for (size_t i = 0; i < thin.size(); ++i) {
    absl::StrAppend(&svg, Line(thin[i], axes, options.log_y, static_cast<int>(i)));
  }
  return Figure(options.title, absl::StrCat(svg, "</svg>\n", Legend(thin)));
}

std::string SvgHeatMapPlot(const SvgHeatMap& map) {
  size_t columns = 0;
  for (const auto& row : map.values) columns = std::max(columns, row.size());
  if (columns == 0) return Figure(map.title, "<p class=\"none\">Nothing was recorded.</p>\n");
  constexpr double kRow = 22;
  const double width = (kWidth - kLeft - kRight) / static_cast<double>(columns);
  const double height = kRow * static_cast<double>(map.values.size());
  std::string svg = absl::StrCat("<svg viewBox=\"0 0 ", kWidth, " ", height + kTop + kBottom,
                                 "\" role=\"img\" aria-label=\"", EscapeHtml(map.title), "\">\n");
  for (size_t r = 0; r < map.values.size(); ++r) {
    const double y = kTop + kRow * static_cast<double>(r);
    const std::string name = r < map.rows.size() ? map.rows[r] : "";
    absl::StrAppend(&svg, "<text class=\"end\" x=\"", kLeft - 6, "\" y=\"", Place(y + kRow / 2),
                    "\" dy=\"4\">", EscapeHtml(name), "</text>\n");
    for (size_t c = 0; c < map.values[r].size(); ++c) {
      const double value = map.values[r][c];
      if (!std::isfinite(value)) continue;
      const double full = (value - map.middle) / (map.limit - map.middle);
      absl::StrAppend(&svg, "<rect class=\"", full < 0 ? "low" : "high", "\" x=\"",
                      Place(kLeft + width * static_cast<double>(c)), "\" y=\"", Place(y),
                      "\" width=\"", Place(width - 1), "\" height=\"", kRow - 1,
                      "\" fill-opacity=\"", absl::StrFormat("%.2f", std::min(1.0, std::abs(full))),
                      "\"><title>", EscapeHtml(name), ", ", EscapeHtml(map.column_label), " ", c,
                      ": ", Number(value), "</title></rect>\n");
    }
  }
  const double every = std::ceil(static_cast<double>(columns) / 16);
  for (double c = 0; c < static_cast<double>(columns); c += every) {
    absl::StrAppend(&svg, "<text class=\"middle\" x=\"", Place(kLeft + width * (c + 0.5)),
                    "\" y=\"", Place(height + kTop + 14), "\">", c, "</text>\n");
  }
  absl::StrAppend(&svg, "<text class=\"middle\" x=\"", (kLeft + kWidth - kRight) / 2, "\" y=\"",
                  Place(height + kTop + 32), "\">", EscapeHtml(map.column_label),
                  "</text></svg>\n");
  return Figure(map.title, svg);
}

const char kPlotStyle[] =
    R"(:root{--c0:#1f6feb;--c1:#d1242f;--c2:#1a7f37;--c3:#9a6700;--c4:#8250df;--c5:#bf3989;
--c6:#0a7d8c;--c7:#57606a;--grid:#d8dee4;--low:#1f6feb;--high:#d1242f}
@media screen and (prefers-color-scheme:dark){:root{--c0:#58a6ff;--c1:#ff7b72;--c2:#3fb950;--c3:#d29922;--c4:#bc8cff;
--c5:#f778ba;--c6:#39c5cf;--c7:#8b949e;--grid:#30363d;--low:#58a6ff;--high:#ff7b72}}
figure{margin:0;break-inside:avoid}figcaption{font-weight:600;margin-bottom:.3em}
svg{width:100%;height:auto;display:block}svg text{font-size:11px;fill:currentColor}
svg .end{text-anchor:end}svg .middle{text-anchor:middle}svg .grid{stroke:var(--grid)}
svg path{fill:none;stroke-width:1.8;stroke-linejoin:round}svg .faint{stroke-width:1;opacity:.35}
svg .low{fill:var(--low)}svg .high{fill:var(--high)}svg rect{stroke:var(--grid);stroke-width:.5}
svg path.c0{stroke:var(--c0)}svg path.c1{stroke:var(--c1)}svg path.c2{stroke:var(--c2)}svg path.c3{stroke:var(--c3)}
svg path.c4{stroke:var(--c4)}svg path.c5{stroke:var(--c5)}svg path.c6{stroke:var(--c6)}svg path.c7{stroke:var(--c7)}
circle.c0{fill:var(--c0)}circle.c1{fill:var(--c1)}circle.c2{fill:var(--c2)}circle.c3{fill:var(--c3)}
i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}
circle.c4{fill:var(--c4)}circle.c5{fill:var(--c5)}circle.c6{fill:var(--c6)}circle.c7{fill:var(--c7)}
i.c4{background:var(--c4)}i.c5{background:var(--c5)}i.c6{background:var(--c6)}i.c7{background:var(--c7)}
.legend{font-size:.85em}.legend span{margin-right:1em;white-space:nowrap}
.legend i{display:inline-block;width:1.4em;height:.25em;margin-right:.4em;vertical-align:middle;print-color-adjust:exact}
.legend i.faint{opacity:.35}.none{opacity:.6}
)";

}  // namespace diffmoe
