#include "client/image_assembly.h"

#include <functional>

#include "absl/strings/match.h"
#include "client/pixel_hash.h"
#include "client/sample_images.h"
#include "gtest/gtest.h"

namespace diffmoe {
namespace {

using Image = v1::SampleResponse::Image;

Image Part(int64_t offset, const std::string& bytes) {
  Image part;
  part.set_index(3);
  part.set_label(1);
  part.set_height(2);
  part.set_width(3);
  part.set_channels(1);
  part.set_encoding(v1::RAW);
  part.set_offset(offset);
  part.set_total_bytes(6);
  part.set_pixels(bytes);
  return part;
}

TEST(ImageAssembly, PutsPartsTogether) {
  ImageAssembly image;
  EXPECT_FALSE(image.started());
  EXPECT_TRUE(image.Add(Part(0, "ab")).ok());
  EXPECT_TRUE(image.Add(Part(2, "cde")).ok());
  EXPECT_FALSE(image.complete());
  EXPECT_TRUE(image.Add(Part(5, "f")).ok());
  EXPECT_TRUE(image.complete());
  EXPECT_EQ(image.bytes(), "abcdef");
  EXPECT_EQ(image.SizeText(), "2x3x1");
}

TEST(ImageAssembly, TakesAWholeImageWithoutATotal) {
  ImageAssembly image;
  Image whole = Part(0, "abcdef");
  whole.set_total_bytes(0);
  whole.set_encoding(v1::IMAGE_ENCODING_UNSPECIFIED);
  EXPECT_TRUE(image.Add(whole).ok());
  EXPECT_TRUE(image.complete());
  EXPECT_EQ(image.encoding(), v1::RAW);
}

TEST(ImageAssembly, RefusesPartsThatDoNotFit) {
  const std::vector<std::pair<std::string, std::function<void(Image*)>>> kFaults = {
      {"expected offset 2, got 3", [](Image* part) { part->set_offset(3); }},
      {"expected offset 2, got 0", [](Image* part) { part->set_offset(0); }},
      {"expected offset 2, got -1", [](Image* part) { part->set_offset(-1); }},
      {"expected 1 to 4 bytes at offset 2, got 5", [](Image* part) { part->set_pixels("cdefg"); }},
      {"expected 1 to 4 bytes at offset 2, got 0", [](Image* part) { part->set_pixels(""); }},
      {"in 6 bytes, got a part of 2x3x1 in 7", [](Image* part) { part->set_total_bytes(7); }},
      {"got a part of 3x3x1", [](Image* part) { part->set_height(3); }},
      {"got a part of 2x3x1", [](Image* part) { part->set_encoding(v1::PNG); }},
      {"got a part of 2x3x1", [](Image* part) { part->set_label(2); }}};
  for (const auto& [text, change] : kFaults) {
    ImageAssembly image;
    ASSERT_TRUE(image.Add(Part(0, "ab")).ok());
    Image part = Part(2, "cd");
    change(&part);
    const absl::Status status = image.Add(part);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_TRUE(absl::StrContains(status.message(), text)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "image 3")) << status;
  }
}

TEST(ImageAssembly, ChecksAnnouncedSizesBeforeUse) {
  const std::vector<std::function<void(Image*)>> kFaults = {
      [](Image* part) { part->set_total_bytes(int64_t{1} << 62); },
      [](Image* part) { part->set_total_bytes(-6); },
      [](Image* part) { part->set_width(1 << 30); },
      [](Image* part) { part->set_channels(0); },
      [](Image* part) { part->set_offset(6); },
      [](Image* part) { part->set_pixels(""), part->set_total_bytes(0); },
      [](Image* part) { part->set_encoding(v1::PNG), part->set_total_bytes(1 << 20); }};
  for (const auto& change : kFaults) {
    ImageAssembly image;
    Image part = Part(0, "ab");
    change(&part);
    EXPECT_EQ(image.Add(part).code(), absl::StatusCode::kDataLoss) << part.ShortDebugString();
    EXPECT_FALSE(image.complete());
  }
}

TEST(SampleImages, KnowsWhichImageDiffersFromTheReceipt) {
  SampleImages images(2);
  v1::Receipt receipt;
  for (int i = 0; i < 2; ++i) {
    Image image = Part(0, std::string(6, static_cast<char>('a' + i)));
    image.set_index(i);
    ASSERT_TRUE(images.Add(image).ok());
    receipt.add_image_hashes(Xxh3Hex(image.pixels()));
  }
  EXPECT_EQ(images.done(), 2);
  EXPECT_TRUE(images.CheckAgainst(receipt).ok());
  receipt.set_image_hashes(1, std::string(32, '0'));
  const absl::Status status = images.CheckAgainst(receipt);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), "image 1 ")) << status;
  receipt.mutable_image_hashes()->RemoveLast();
  EXPECT_EQ(images.CheckAgainst(receipt).code(), absl::StatusCode::kDataLoss);
  // An older coordinator sends none.
  receipt.clear_image_hashes();
  EXPECT_TRUE(images.CheckAgainst(receipt).ok());
}

TEST(Xxh3Hex, IsTheCanonicalForm) {
  // xxhsum -H2 of nothing.
  EXPECT_EQ(Xxh3Hex(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_NE(Xxh3Hex("a"), Xxh3Hex("b"));
}

}  // namespace
}  // namespace diffmoe
