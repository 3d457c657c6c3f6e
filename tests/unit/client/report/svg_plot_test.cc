#include "client/report/svg_plot.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace diffmoe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST(EscapeHtmlTest, LeavesNothingThatAPageCouldRead) {
  EXPECT_EQ(EscapeHtml("<script>a('b') & \"c\"</script>"),
            "&lt;script&gt;a(&#39;b&#39;) &amp; &quot;c&quot;&lt;/script&gt;");
  EXPECT_EQ(EscapeHtml("plain \xC3\xA9\n\ttext"), "plain \xC3\xA9\n\ttext");
  EXPECT_EQ(EscapeHtml(std::string("\0\x1b[31m\x7f", 7)), "??[31m?");
  // Bytes that aren't UTF-8, an overlong '<', half a character.
  EXPECT_EQ(EscapeHtml("a\xFF\xC0\xBC"), "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(EscapeHtml("\xE2\x82"), "\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(SvgPlotTest, ASmallPlotIsThis) {
  SvgSeries series{"a < b", {0, 1, 2}, {0, 10, 5}};
  EXPECT_EQ(SvgLinePlot({series}, {.title = "T", .x_label = "x", .y_label = "y"}),
            R"svg(<figure><figcaption>T</figcaption>
<svg viewBox="0 0 640 300" role="img" aria-label="T">
<line class="grid" x1="62" x2="628" y1="260.0" y2="260.0"/><text class="end" x="56" y="260.0" dy="4">0</text>
<line class="grid" x1="62" x2="628" y1="210.0" y2="210.0"/><text class="end" x="56" y="210.0" dy="4">2</text>
<line class="grid" x1="62" x2="628" y1="160.0" y2="160.0"/><text class="end" x="56" y="160.0" dy="4">4</text>
<line class="grid" x1="62" x2="628" y1="110.0" y2="110.0"/><text class="end" x="56" y="110.0" dy="4">6</text>
<line class="grid" x1="62" x2="628" y1="60.0" y2="60.0"/><text class="end" x="56" y="60.0" dy="4">8</text>
<line class="grid" x1="62" x2="628" y1="10.0" y2="10.0"/><text class="end" x="56" y="10.0" dy="4">10</text>
<line class="grid" x1="62.0" x2="62.0" y1="10" y2="260"/><text class="middle" x="62.0" y="276">0</text>
<line class="grid" x1="203.5" x2="203.5" y1="10" y2="260"/><text class="middle" x="203.5" y="276">0.5</text>
<line class="grid" x1="345.0" x2="345.0" y1="10" y2="260"/><text class="middle" x="345.0" y="276">1</text>
<line class="grid" x1="486.5" x2="486.5" y1="10" y2="260"/><text class="middle" x="486.5" y="276">1.5</text>
<line class="grid" x1="628.0" x2="628.0" y1="10" y2="260"/><text class="middle" x="628.0" y="276">2</text>
<text class="middle" x="345" y="294">x</text><text class="middle" transform="translate(13 135) rotate(-90)">y</text>
<path class="c0" d="M62.0 260.0L345.0 10.0L628.0 135.0"/>
</svg>
<div class="legend"><span><i class="c0"></i>a &lt; b</span> </div></figure>
)svg");
}

TEST(SvgPlotTest, ValuesThatCantBeDrawnBreakTheLine) {
  const SvgSeries series{"", {0, 1, 2, 3, 4}, {1, kNaN, 2, INFINITY, 3}};
  const std::string svg = SvgLinePlot({series}, {.title = "T"});
  EXPECT_THAT(svg, HasSubstr("d=\"M62.0 260.0M345.0 135.0M628.0 10.0\""));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  const SvgSeries signs{"", {0, 1, 2}, {1, -1, 100}};
  EXPECT_THAT(SvgLinePlot({signs}, {.log_y = true}), HasSubstr("d=\"M62.0 260.0M628.0 10.0\""));
}

TEST(SvgPlotTest, NothingToDrawIsSaid) {
  const SvgSeries empty{"", {1}, {kNaN}};
  for (const std::string& svg : {SvgLinePlot({}, {.title = "T"}), SvgLinePlot({empty}, {}),
                                 SvgHeatMapPlot({.title = "T"})}) {
    EXPECT_THAT(svg, HasSubstr("Nothing was recorded"));
    EXPECT_THAT(svg, Not(HasSubstr("<svg")));
  }
}

TEST(SvgPlotTest, OneValueAndHugeOnesAreDrawn) {
  for (const double value : {0.0, -5.0, 1e-30, 1e300}) {
    const SvgSeries series{"", {7}, {value}, false, true};
    EXPECT_THAT(SvgLinePlot({series}, {}), HasSubstr("<circle")) << value;
  }
  EXPECT_THAT(SvgLinePlot({SvgSeries{"", {0, 1}, {1e-30, 1e30}}}, {.log_y = true}),
              HasSubstr("<path"));
}

TEST(SvgPlotTest, LongSeriesStaySmallAndKeepTheirPeak) {
  SvgSeries series;
  for (int i = 0; i < 10'000; ++i) {
    series.x.push_back(i);
    series.y.push_back(i == 5003 ? 50 : std::sin(i));
  }
  const std::string svg = SvgLinePlot({series}, {.title = "T"});
  EXPECT_LT(svg.size(), 20'000);
  EXPECT_THAT(svg, HasSubstr(" 10.0L"));  // the top of the plot
}

TEST(SvgHeatMapTest, CellsNameTheirValueAndGapsStayEmpty) {
  const std::string svg = SvgHeatMapPlot({.title = "Load",
                                          .column_label = "expert",
                                          .rows = {"block 1", "<b>"},
                                          .values = {{1, 2, 0}, {kNaN, 5}}});
  EXPECT_THAT(svg, HasSubstr("<title>block 1, expert 2: 0</title>"));
  EXPECT_THAT(svg, HasSubstr("class=\"low\""));
  EXPECT_THAT(svg, HasSubstr("&lt;b&gt;, expert 1: 5"));
  EXPECT_THAT(svg, Not(HasSubstr("<b>")));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace diffmoe
