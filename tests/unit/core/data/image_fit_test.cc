#include "core/data/image_fit.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace diffmoe {
namespace {

std::vector<uint8_t> Fitted(const Image& image, const ImageFit& fit) {
  std::vector<uint8_t> planes(fit.bytes());
  const absl::Status status = FitImage(image, fit, absl::MakeSpan(planes));
  EXPECT_TRUE(status.ok()) << status;
  return planes;
}

TEST(ImageFitTest, SameSizeIsUnchanged) {
  const Image image{2, 2, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}};
  EXPECT_EQ(Fitted(image, {3, 2, Resize::kCrop}),
            (std::vector<uint8_t>{1, 4, 7, 10, 2, 5, 8, 11, 3, 6, 9, 12}));
  EXPECT_EQ(Fitted(image, {3, 2, Resize::kPad}), Fitted(image, {3, 2, Resize::kCrop}));
}

TEST(ImageFitTest, GreyAndColourConvert) {
  const Image red{1, 1, 3, {255, 0, 0}}, green{1, 1, 3, {0, 255, 0}},
      white{1, 1, 3, {255, 255, 255}};
  EXPECT_EQ(Fitted(red, {1, 1, Resize::kCrop}), std::vector<uint8_t>{76});
  EXPECT_EQ(Fitted(green, {1, 1, Resize::kCrop}), std::vector<uint8_t>{150});
  EXPECT_EQ(Fitted(white, {1, 1, Resize::kCrop}), std::vector<uint8_t>{255});
  EXPECT_EQ(Fitted({1, 1, 1, {9}}, {3, 1, Resize::kCrop}), (std::vector<uint8_t>{9, 9, 9}));
}

TEST(ImageFitTest, CropTakesTheMiddle) {
  // One row of six: the middle two of it are 3 and 4 once cropped to 2x2.
  const Image wide{2, 6, 1, {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6}};
  EXPECT_EQ(Fitted(wide, {1, 2, Resize::kCrop}), (std::vector<uint8_t>{3, 4, 3, 4}));
  const Image tall{6, 2, 1, {1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6}};
  EXPECT_EQ(Fitted(tall, {1, 2, Resize::kCrop}), (std::vector<uint8_t>{3, 3, 4, 4}));
}

TEST(ImageFitTest, ShrinkingAveragesInsteadOfSkipping) {
  // Columns of black and white: without antialiasing the result would be all black or all white.
  Image stripes{64, 64, 1, {}};
  for (int y = 0; y < 64; ++y) {
    for (int x = 0; x < 64; ++x) stripes.pixels.push_back(x % 2 == 0 ? 0 : 255);
  }
  for (uint8_t value : Fitted(stripes, {1, 8, Resize::kCrop})) EXPECT_NEAR(value, 127.5, 8);
  const Image flat{100, 77, 1, std::vector<uint8_t>(7700, 93)};
  for (uint8_t value : Fitted(flat, {1, 32, Resize::kCrop})) EXPECT_EQ(value, 93);
}

TEST(ImageFitTest, EnlargingIsSmoothAndSymmetric) {
  const Image pair{2, 2, 1, {0, 200, 0, 200}};
  const auto planes = Fitted(pair, {1, 8, Resize::kCrop});
  for (int x = 1; x < 8; ++x) EXPECT_GE(planes[x], planes[x - 1]);
  for (int x = 0; x < 8; ++x) EXPECT_EQ(planes[x] + planes[7 - x], 200);
  EXPECT_EQ(planes[0], 0);
  EXPECT_EQ(planes[7], 200);
}

TEST(ImageFitTest, PadCentresOnBlack) {
  const Image small{1, 2, 1, {7, 8}};
  EXPECT_EQ(Fitted(small, {1, 4, Resize::kPad}),
            (std::vector<uint8_t>{0, 0, 0, 0, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  std::vector<uint8_t> planes(1);
  const absl::Status status = FitImage(small, {1, 1, Resize::kPad}, absl::MakeSpan(planes));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("1x2"), std::string::npos) << status;
}

TEST(ImageFitTest, WrongBufferOrChannelsAreRefused) {
  const Image image{1, 1, 1, {7}};
  std::vector<uint8_t> planes(4);
  EXPECT_FALSE(FitImage(image, {1, 1, Resize::kCrop}, absl::MakeSpan(planes)).ok());
  EXPECT_FALSE(FitImage(image, {4, 1, Resize::kCrop}, absl::MakeSpan(planes)).ok());
}

}  // namespace
}  // namespace diffmoe
