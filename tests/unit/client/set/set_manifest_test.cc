#include "client/set/set_manifest.h"

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

SetManifest Example() {
  SetManifest manifest;
  manifest.spec.request.set_checkpoint("jobs/a-1");
  manifest.spec.request.set_seed(18446744073709551615u);
  manifest.spec.request.set_steps(5);
  manifest.spec.count = 25;
  manifest.spec.classes = {4, 7, 9};
  manifest.spec.shard_images = 10;
  manifest.checkpoint = "jobs/a-1/checkpoints/200";
  manifest.origin = SetOrigin{4, 4, 1, "euler", 5, 2, "aaaa", "bbbb", "0.1.0"};
  manifest.shards[0] = {"00", "01"};
  manifest.shards[2] = {"20", "21"};
  return manifest;
}

TEST(SetSpec, NumbersImagesAndClasses) {
  const SetSpec spec = Example().spec;
  EXPECT_EQ(spec.shards(), 3);
  EXPECT_EQ(spec.ImagesOf(0), 10);
  EXPECT_EQ(spec.ImagesOf(2), 5);
  EXPECT_EQ(spec.FirstOf(2), 20);
  EXPECT_EQ(spec.LabelOf(0), 4);
  EXPECT_EQ(spec.LabelOf(5), 9);
  EXPECT_EQ(Example().ImagesDone(), 15);
  EXPECT_EQ(ImagesFile(7), "images-00007.npy");
}

TEST(SetManifest, ReadsBackWhatItWrites) {
  const SetManifest manifest = Example();
  const auto json = ManifestJson(manifest);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["complete"], false);
  const auto read = ParseManifest(json->dump(), "set.json");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(CheckSameSpec(read->spec, manifest.spec, "d").ok());
  EXPECT_EQ(read->checkpoint, manifest.checkpoint);
  EXPECT_EQ(read->origin, manifest.origin);
  EXPECT_EQ(read->shards, manifest.shards);
  EXPECT_EQ(ManifestJson(*read)->dump(), json->dump());
}

TEST(SetManifest, DamagedFilesAreDataLoss) {
  const auto good = ManifestJson(Example());
  ASSERT_TRUE(good.ok());
  const std::vector<std::pair<std::string, std::string>> kFaults = {
      {"format", R"({"format":"other"})"},
      {"count", R"({"count":0})"},
      {"count", R"({"count":"many"})"},
      {"shard_images", R"({"shard_images":-1})"},
      {"classes", R"({"classes":[]})"},
      {"classes", R"({"classes":["x"]})"},
      {"request", R"({"request":{"steps":"x"}})"},
      {"origin", R"({"origin":7})"},
      {"shards", R"({"shards":[{"index":3}]})"},
      {"shards", R"({"shards":[1]})"}};
  for (const auto& [field, patch] : kFaults) {
    nlohmann::ordered_json json = *good;
    json.update(nlohmann::ordered_json::parse(patch));
    const absl::Status status = ParseManifest(json.dump(), "set.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << patch;
    EXPECT_TRUE(absl::StrContains(status.message(), "set.json: ")) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), field)) << status;
  }
  for (const char* text : {"", "[]", "{}", "7"}) {
    EXPECT_EQ(ParseManifest(text, "f").status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

TEST(CheckSameSpec, NamesTheFirstDifference) {
  const SetSpec existing = Example().spec;
  SetSpec asked = existing;
  asked.request.clear_seed();  // not asked for: fits
  EXPECT_TRUE(CheckSameSpec(existing, asked, "d").ok());
  asked.count = 26;
  EXPECT_EQ(CheckSameSpec(existing, asked, "d"),
            absl::FailedPreconditionError("d holds another set: count: it has 25, asked for 26"));
  asked.request.set_steps(6);
  EXPECT_EQ(CheckSameSpec(existing, asked, "d"),
            absl::FailedPreconditionError("d holds another set: steps: it has 5, asked for 6"));
  asked = existing;
  asked.request.clear_steps();
  EXPECT_EQ(
      CheckSameSpec(existing, asked, "d"),
      absl::FailedPreconditionError("d holds another set: steps: it has 5, asked for the default"));
  asked = existing;
  asked.classes = {4};
  EXPECT_FALSE(CheckSameSpec(existing, asked, "d").ok());
  asked = existing;
  asked.shard_images = 5;
  EXPECT_FALSE(CheckSameSpec(existing, asked, "d").ok());
}

}  // namespace
}  // namespace diffmoe
