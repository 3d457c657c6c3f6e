#include "core/eval/line_plot.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/eval/bitmap_font.h"
#include "core/eval/canvas.h"

namespace diffmoe {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Pixels that have this colour exactly.
int CountColour(const Image& image, Colour colour) {
  int count = 0;
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    count += image.pixels[i] == colour.red && image.pixels[i + 1] == colour.green &&
             image.pixels[i + 2] == colour.blue;
  }
  return count;
}

constexpr Colour kFirst{0, 114, 178}, kSecond{213, 94, 0}, kInk{40, 44, 52};

// The mean row of pixels of the first series' colour in one column, or -1.
double LineRow(const Image& image, int x) {
  double sum = 0;
  int count = 0;
  for (int y = 0; y < image.height; ++y) {
    const uint8_t* pixel = image.pixels.data() + (static_cast<size_t>(y) * image.width + x) * 3;
    if (pixel[0] == kFirst.red && pixel[1] == kFirst.green && pixel[2] == kFirst.blue) {
      sum += y;
      ++count;
    }
  }
  return count == 0 ? -1 : sum / count;
}

Image Draw(const std::vector<LineSeries>& series, const LinePlotOptions& options) {
  auto image = DrawLinePlot(series, options);
  EXPECT_TRUE(image.ok()) << image.status();
  return image.ok() ? *std::move(image) : Image{};
}

TEST(LinePlotTest, AStraightLineIsStraight) {
  LineSeries series{"", {}, {}};
  for (int i = 0; i <= 100; ++i) {
    series.x.push_back(i);
    series.y.push_back(3 * i);
  }
  const Image image = Draw({series}, {.title = "Line", .width = 600, .height = 400});
  EXPECT_EQ(image.width, 600);
  EXPECT_EQ(image.height, 400);
  const double a = LineRow(image, 200), b = LineRow(image, 300), c = LineRow(image, 400);
  ASSERT_GT(std::min({a, b, c}), 0);
  EXPECT_NEAR(a - b, b - c, 1.5);
  EXPECT_GT(a - b, 20);  // values grow upwards
}

TEST(LinePlotTest, AnExponentialIsStraightOnALogAxis) {
  LineSeries series{"", {}, {}};
  for (int i = 0; i <= 100; ++i) {
    series.x.push_back(i);
    series.y.push_back(std::exp(-0.1 * i));
  }
  const Image log = Draw({series}, {.log_y = true, .width = 600, .height = 400});
  EXPECT_NEAR(LineRow(log, 200) - LineRow(log, 300), LineRow(log, 300) - LineRow(log, 400), 1.5);
  const Image linear = Draw({series}, {.width = 600, .height = 400});
  EXPECT_GT(std::abs((LineRow(linear, 200) - LineRow(linear, 300)) -
                     (LineRow(linear, 300) - LineRow(linear, 400))),
            10);
}

TEST(LinePlotTest, SeveralSeriesHaveTheirColoursAndALegend) {
  const LineSeries a{"loss", {0, 1, 2}, {1, 2, 1}}, b{"floor", {0, 1, 2}, {0.5, 0.5, 0.5}};
  const Image both = Draw({a, b}, {});
  EXPECT_GT(CountColour(both, kFirst), 200);
  EXPECT_GT(CountColour(both, kSecond), 200);
  const Image one = Draw({a}, {});
  EXPECT_EQ(CountColour(one, kSecond), 0);
  // The legend's text is ink that the unnamed series doesn't have.
  const Image unnamed = Draw({{"", a.x, a.y}}, {});
  EXPECT_GT(CountColour(one, kInk), CountColour(unnamed, kInk) + 50);
  const Image titled =
      Draw({{"", a.x, a.y}}, {.title = "A title", .x_label = "step", .y_label = "loss"});
  EXPECT_GT(CountColour(titled, kInk), CountColour(unnamed, kInk) + 300);
}

TEST(LinePlotTest, GapsAreLeftWhereNothingCanBeDrawn) {
  const LineSeries whole{"", {0, 1, 2, 3, 4}, {1, 1, 1, 1, 1}};
  const LineSeries broken{"", {0, 1, 2, 3, 4}, {1, 1, kNan, 1, 1}};
  const int full = CountColour(Draw({whole}, {}), kFirst);
  const int partly = CountColour(Draw({broken}, {}), kFirst);
  EXPECT_LT(partly, full * 6 / 10);
  EXPECT_GT(partly, full * 4 / 10);
  // Zero can't stand on a log axis, nor decide its range.
  Draw({{"", {0, 1, 2}, {0, 1, 10}}}, {.log_y = true});
}

TEST(LinePlotTest, OddRangesStillGiveAPicture) {
  for (bool log_y : {false, true}) {
    for (const LineSeries& series :
         {LineSeries{"", {5}, {3}}, LineSeries{"", {0, 1}, {2, 2}},
          LineSeries{"", {0, 1e-300}, {1, 1e-300}}, LineSeries{"", {0, 1}, {1e300, 1e-300}},
          LineSeries{"", {1e9, 1e9 + 1}, {0.1, 0.10001}}, LineSeries{"", {-1e15, 1e15}, {1, 2}}}) {
      const Image image = Draw({series}, {.log_y = log_y});
      EXPECT_GT(CountColour(image, kFirst), 2);
    }
  }
  Draw({{"", {0, 0}, {0, 0}}},
       {.title = std::string(500, 'W'), .y_label = "\x01\xff", .width = 200, .height = 150});
}

TEST(LinePlotTest, ImpossiblePlotsAreRefused) {
  const auto code = [](const std::vector<LineSeries>& series, const LinePlotOptions& options) {
    return DrawLinePlot(series, options).status().code();
  };
  EXPECT_EQ(code({}, {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{"", {1}, {kNan}}}, {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{"", {1}, {-1}}}, {.log_y = true}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{"", {1, 2}, {1}}}, {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{"", {1}, {1}}}, {.width = 10}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{"", {1}, {1}}}, {.height = 100'000}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{"", {0, 1}, {-1.7e308, 1.7e308}}}, {}), absl::StatusCode::kInvalidArgument);
}

TEST(LinePlotTest, WritesAPngFile) {
  const std::string path = absl::StrCat(::testing::TempDir(), "plot_", ::getpid(), ".png");
  ASSERT_TRUE(WriteLinePlot(path, {{"", {0, 1}, {0, 1}}}, {}).ok());
  EXPECT_GT(std::filesystem::file_size(path), 500u);
  std::filesystem::remove(path);
}

TEST(BitmapFontTest, EveryCharacterHasItsOwnShape) {
  for (char c = '!'; c <= '~'; ++c) {
    for (char other = ' '; other < c; ++other) EXPECT_NE(Glyph(c), Glyph(other)) << c << other;
  }
  EXPECT_EQ(Glyph('\n'), Glyph('?'));
  EXPECT_EQ(Glyph('\xff'), Glyph('?'));
}

TEST(CanvasTest, TextTurnsAndEverythingIsClipped) {
  Canvas canvas(20, 20, {255, 255, 255});
  canvas.DrawText(-3, -3, "Clipped text", 2, {0, 0, 0});
  canvas.DrawTextUpwards(15, -30, "Clipped text", 2, {0, 0, 0});
  canvas.FillRectangle(-5, 18, 100, 100, {1, 2, 3});
  canvas.DrawPolyline(std::vector<Point>{{-50, -50}, {500, 500}}, 3, {9, 9, 9}, 0, 0, 20, 20);
  const Image image = canvas.Take();
  EXPECT_EQ(image.pixels.size(), 20u * 20 * 3);
  EXPECT_EQ(image.pixels[(19 * 20) * 3], 1);
  EXPECT_EQ(image.pixels[(10 * 20 + 10) * 3], 9);

  Canvas upright(40, 40, {255, 255, 255}), turned(40, 40, {255, 255, 255});
  upright.DrawText(0, 0, "L", 1, {0, 0, 0});
  turned.DrawTextUpwards(0, 0, "L", 1, {0, 0, 0});
  const Image a = upright.Take(), b = turned.Take();
  for (int y = 0; y < kGlyphHeight; ++y) {
    for (int x = 0; x < kGlyphWidth; ++x) {
      EXPECT_EQ(a.pixels[(y * 40 + x) * 3], b.pixels[((kGlyphWidth - 1 - x) * 40 + y) * 3]);
    }
  }
}

}  // namespace
}  // namespace diffmoe
