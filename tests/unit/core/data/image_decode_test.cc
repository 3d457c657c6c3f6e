#include "core/data/image_decode.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/unit/core/data/image_files.h"

namespace diffmoe {
namespace {

constexpr int64_t kMaxPixels = 1 << 20;

Image Decoded(const std::string& bytes) {
  auto image = DecodeImage(bytes, kMaxPixels);
  EXPECT_TRUE(image.ok()) << image.status();
  return image.ok() ? *std::move(image) : Image{};
}

void ExpectBroken(const std::string& bytes, const std::string& words) {
  auto image = DecodeImage(bytes, kMaxPixels);
  ASSERT_FALSE(image.ok());
  EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument) << image.status();
  EXPECT_NE(std::string(image.status().message()).find(words), std::string::npos) << image.status();
}

TEST(PngTest, GreyAndColour) {
  const auto grey = Gradient(5, 7, 1);
  Image image = Decoded(MakePng({.width = 7, .height = 5, .colour_type = 0}, grey));
  EXPECT_EQ(image.channels, 1);
  EXPECT_EQ(image.width, 7);
  EXPECT_EQ(image.height, 5);
  EXPECT_EQ(image.pixels, grey);
  const auto colour = Gradient(5, 7, 3);
  image = Decoded(MakePng({.width = 7, .height = 5, .colour_type = 2}, colour));
  EXPECT_EQ(image.channels, 3);
  EXPECT_EQ(image.pixels, colour);
}

TEST(PngTest, InterlacedIsTheSamePicture) {
  for (int colour_type : {0, 2, 4, 6}) {
    const int channels[] = {1, 0, 3, 0, 2, 0, 4};
    const auto rows = Gradient(13, 11, channels[colour_type]);
    PngKind kind{.width = 11, .height = 13, .colour_type = colour_type};
    const Image plain = Decoded(MakePng(kind, rows));
    kind.interlaced = true;
    EXPECT_EQ(Decoded(MakePng(kind, rows)).pixels, plain.pixels) << colour_type;
  }
}

TEST(PngTest, LowDepthsAreScaledToFullRange) {
  // 1 bit: 10110000; 2 bits: 3,0,1,2; 4 bits: 15,0,8,1.
  EXPECT_EQ(
      Decoded(MakePng({.width = 8, .height = 1, .colour_type = 0, .depth = 1}, {0xB0})).pixels,
      (std::vector<uint8_t>{255, 0, 255, 255, 0, 0, 0, 0}));
  EXPECT_EQ(
      Decoded(MakePng({.width = 4, .height = 1, .colour_type = 0, .depth = 2}, {0xC6})).pixels,
      (std::vector<uint8_t>{255, 0, 85, 170}));
  EXPECT_EQ(Decoded(MakePng({.width = 4, .height = 1, .colour_type = 0, .depth = 4}, {0xF0, 0x81}))
                .pixels,
            (std::vector<uint8_t>{255, 0, 136, 17}));
}

TEST(PngTest, SixteenBitsBecomeEight) {
  EXPECT_EQ(Decoded(MakePng({.width = 3, .height = 1, .colour_type = 0, .depth = 16},
                            {0x00, 0x00, 0x80, 0x80, 0xFF, 0xFF}))
                .pixels,
            (std::vector<uint8_t>{0, 128, 255}));
  EXPECT_EQ(Decoded(MakePng({.width = 1, .height = 1, .colour_type = 2, .depth = 16},
                            {0xFF, 0xFF, 0, 0, 0x40, 0x40}))
                .pixels,
            (std::vector<uint8_t>{255, 0, 64}));
  // Opaque and fully transparent, with 16-bit alpha.
  EXPECT_EQ(Decoded(MakePng({.width = 2, .height = 1, .colour_type = 4, .depth = 16},
                            {0x20, 0x20, 0xFF, 0xFF, 0x20, 0x20, 0, 0}))
                .pixels,
            (std::vector<uint8_t>{32, 255}));
}

TEST(PngTest, PaletteOfEveryDepth) {
  const std::vector<uint8_t> palette = {10, 20, 30, 200, 100, 50};
  const std::vector<uint8_t> first = {10, 20, 30}, second = {200, 100, 50};
  const std::pair<int, std::vector<uint8_t>> cases[] = {
      {1, {0x40}}, {2, {0x10}}, {4, {0x01}}, {8, {0, 1}}};
  for (const auto& [depth, rows] : cases) {
    const Image image = Decoded(
        MakePng({.width = 2, .height = 1, .colour_type = 3, .depth = depth}, rows, palette));
    EXPECT_EQ(image.pixels, (std::vector<uint8_t>{10, 20, 30, 200, 100, 50})) << depth;
  }
}

TEST(PngTest, TransparencyIsCompositedOnWhite) {
  // Alpha 0, 255 and 128 over value 100: white, unchanged, half way.
  EXPECT_EQ(
      Decoded(MakePng({.width = 3, .height = 1, .colour_type = 4}, {100, 0, 100, 255, 100, 128}))
          .pixels,
      (std::vector<uint8_t>{255, 100, 177}));
  EXPECT_EQ(
      Decoded(MakePng({.width = 2, .height = 1, .colour_type = 6}, {1, 2, 3, 0, 1, 2, 3, 255}))
          .pixels,
      (std::vector<uint8_t>{255, 255, 255, 1, 2, 3}));
  // tRNS in all three forms: palette entry 0, grey 0, RGB (0, 0, 0).
  EXPECT_EQ(Decoded(MakePng({.width = 2, .height = 1, .colour_type = 3, .transparency = true},
                            {0, 1}, {9, 9, 9, 7, 8, 9}))
                .pixels,
            (std::vector<uint8_t>{255, 255, 255, 7, 8, 9}));
  EXPECT_EQ(
      Decoded(MakePng({.width = 2, .height = 1, .colour_type = 0, .transparency = true}, {0, 5}))
          .pixels,
      (std::vector<uint8_t>{255, 5}));
  EXPECT_EQ(Decoded(MakePng({.width = 2, .height = 1, .colour_type = 2, .transparency = true},
                            {0, 0, 0, 0, 0, 1}))
                .pixels,
            (std::vector<uint8_t>{255, 255, 255, 0, 0, 1}));
}

TEST(PngTest, EveryTruncationIsAnError) {
  for (bool interlaced : {false, true}) {
    const std::string bytes = MakePng(
        {.width = 8, .height = 8, .colour_type = 2, .interlaced = interlaced}, Gradient(8, 8, 3));
    for (size_t kept = 0; kept < bytes.size(); ++kept) {
      EXPECT_FALSE(DecodeImage(bytes.substr(0, kept), kMaxPixels).ok()) << kept;
    }
  }
}

TEST(PngTest, EveryFlippedByteOfTheImageIsAnError) {
  // From the IHDR chunk to the last byte of IDAT everything is under a checksum.
  const std::string bytes = MakePng({.colour_type = 2}, Gradient(8, 8, 3));
  for (size_t at = 8; at < bytes.size() - 12; ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    EXPECT_FALSE(DecodeImage(damaged, kMaxPixels).ok()) << at;
  }
}

TEST(PngTest, HugeImageIsRefusedByItsHeader) {
  std::string bytes = MakePng({.width = 2000, .height = 2000, .colour_type = 0, .depth = 1},
                              std::vector<uint8_t>(250 * 2000, 0));
  ExpectBroken(bytes, "too many pixels");
}

TEST(JpegTest, KindsAgreeWithTheSource) {
  for (int components : {1, 3}) {
    for (bool progressive : {false, true}) {
      const auto pixels = Gradient(24, 40, components);
      const Image image = Decoded(MakeJpeg(
          {.width = 40, .height = 24, .components = components, .progressive = progressive},
          pixels));
      ASSERT_EQ(image.channels, components);
      ASSERT_EQ(image.pixels.size(), pixels.size());
      for (size_t i = 0; i < pixels.size(); ++i) {
        // Quality 95 with halved chroma keeps a smooth picture within a few levels.
        ASSERT_LE(std::abs(int{image.pixels[i]} - int{pixels[i]}), 8) << i;
      }
    }
  }
}

TEST(JpegTest, CmykIsRefused) {
  ExpectBroken(MakeJpeg({.components = 4}, Gradient(16, 16, 4)), "CMYK");
}

TEST(JpegTest, EveryTruncationIsAnError) {
  for (int components : {1, 3}) {
    for (bool progressive : {false, true}) {
      const std::string bytes =
          MakeJpeg({.components = components, .progressive = progressive, .quality = 75},
                   Gradient(16, 16, components));
      for (size_t kept = 0; kept < bytes.size(); ++kept) {
        EXPECT_FALSE(DecodeImage(bytes.substr(0, kept), kMaxPixels).ok())
            << kept << " of " << bytes.size() << " bytes, progressive " << progressive;
      }
    }
  }
}

TEST(JpegTest, HugeImageIsRefusedByItsHeader) {
  std::string bytes = MakeJpeg({}, Gradient(16, 16, 3));
  const size_t frame = bytes.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  for (size_t i = 5; i < 9; ++i) bytes[frame + i] = '\x7f';  // height and width 32639
  ExpectBroken(bytes, "too many pixels");
}

TEST(ImageDecodeTest, OtherFiles) {
  ExpectBroken("", "empty");
  ExpectBroken("GIF89a-----", "neither a PNG nor a JPEG");
  ExpectBroken("\x89PNG", "neither a PNG nor a JPEG");
}

}  // namespace
}  // namespace diffmoe
