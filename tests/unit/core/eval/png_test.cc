#include "core/eval/png.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/data/image_decode.h"

namespace diffmoe {
namespace {

TEST(PngTest, WhatIsWrittenIsReadBack) {
  const std::string path = absl::StrCat(::testing::TempDir(), "png_", ::getpid(), ".png");
  for (int channels : {1, 3}) {
    std::vector<uint8_t> pixels;
    for (int i = 0; i < 5 * 7 * channels; ++i) pixels.push_back(static_cast<uint8_t>(i * 37));
    ASSERT_TRUE(WritePng(path, 5, 7, channels, pixels).ok());
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    auto image = DecodePng(bytes, 1000);
    ASSERT_TRUE(image.ok()) << image.status();
    EXPECT_EQ(image->height, 5);
    EXPECT_EQ(image->width, 7);
    EXPECT_EQ(image->channels, channels);
    EXPECT_EQ(image->pixels, pixels);
  }
  std::filesystem::remove(path);
}

TEST(PngTest, WrongSizesAreRefused) {
  const std::vector<uint8_t> pixels(12);
  EXPECT_TRUE(EncodePng(2, 2, 3, pixels).ok());
  for (const auto& [height, width, channels] :
       {std::tuple{2, 2, 1}, {0, 2, 3}, {-2, -2, 3}, {2, 3, 2}, {1, 3, 4}, {1 << 17, 1, 1}}) {
    EXPECT_EQ(EncodePng(height, width, channels, pixels).status().code(),
              absl::StatusCode::kInvalidArgument)
        << height << "x" << width << "x" << channels;
  }
  EXPECT_EQ(WritePng("/no/such/folder/x.png", 2, 2, 3, pixels).code(), absl::StatusCode::kNotFound);
}

TEST(GridTest, PlacesImagesInRowOrder) {
  std::vector<Image> images;
  for (uint8_t value = 1; value <= 3; ++value) images.push_back({1, 1, 1, {value}});
  auto grid = MakeGrid(images, {.columns = 2, .gap = 1, .scale = 1, .background = 0});
  ASSERT_TRUE(grid.ok()) << grid.status();
  EXPECT_EQ(grid->height, 5);
  EXPECT_EQ(grid->width, 5);
  EXPECT_EQ(grid->pixels, (std::vector<uint8_t>{0, 0, 0, 0, 0,  //
                                                0, 1, 0, 2, 0,  //
                                                0, 0, 0, 0, 0,  //
                                                0, 3, 0, 0, 0,  //
                                                0, 0, 0, 0, 0}));
}

TEST(GridTest, ScaleRepeatsPixelsAndDefaultIsSquare) {
  const std::vector<Image> one = {{1, 2, 3, {1, 2, 3, 4, 5, 6}}};
  auto grid = MakeGrid(one, {.gap = 0, .scale = 2});
  ASSERT_TRUE(grid.ok());
  const std::vector<uint8_t> row = {1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6};
  std::vector<uint8_t> expected = row;
  expected.insert(expected.end(), row.begin(), row.end());
  EXPECT_EQ(grid->pixels, expected);
  auto square = MakeGrid(std::vector<Image>(9, Image{1, 1, 1, {7}}), {.gap = 0});
  ASSERT_TRUE(square.ok());
  EXPECT_EQ(square->width, 3);
  EXPECT_EQ(square->height, 3);
}

TEST(GridTest, BadGridsAreRefused) {
  const Image small{1, 1, 1, {7}}, large{2, 1, 1, {7, 8}}, broken{2, 2, 1, {7}};
  EXPECT_FALSE(MakeGrid({}).ok());
  EXPECT_FALSE(MakeGrid({small, large}).ok());
  EXPECT_FALSE(MakeGrid({broken}).ok());
  EXPECT_FALSE(MakeGrid({small}, {.columns = -1}).ok());
  EXPECT_FALSE(MakeGrid({small}, {.scale = 0}).ok());
  EXPECT_FALSE(MakeGrid(std::vector<Image>(200, small), {.columns = 200, .gap = 1000}).ok());
}

TEST(ImageFromPlanesTest, RoundsClampsAndInterleaves) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  auto image = ImageFromPlanes(3, 1, 3, {-1, 1, 0, -2, 2, nan, infinity, -infinity, 0.2f});
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->pixels, (std::vector<uint8_t>{0, 0, 255, 255, 255, 0, 128, 0, 153}));
  EXPECT_FALSE(ImageFromPlanes(3, 1, 3, {0, 0}).ok());
  // Every pixel value survives the way to [-1, 1] and back.
  std::vector<float> values;
  for (int i = 0; i < 256; ++i) values.push_back(static_cast<float>(i) / 127.5f - 1.0f);
  auto all = ImageFromPlanes(1, 16, 16, values);
  ASSERT_TRUE(all.ok());
  for (int i = 0; i < 256; ++i) EXPECT_EQ(all->pixels[i], i);
}

}  // namespace
}  // namespace diffmoe
