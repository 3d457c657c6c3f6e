// What a set of images consists of, and set.json, the file that says so.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "diffmoe/v1/sampling.pb.h"
#include "nlohmann/json_fwd.hpp"

namespace diffmoe {

// What was asked for. Image i has class classes[i mod number of classes] and noise (seed, i).
struct SetSpec {
  // Everything but classes, count, first_image and who asks; checkpoint as the user named it.
  v1::SampleRequest request;
  int64_t count = 0;
  std::vector<int32_t> classes;
  int64_t shard_images = 1000;

  int32_t LabelOf(int64_t image) const;
  int64_t shards() const { return (count + shard_images - 1) / shard_images; }
  int64_t FirstOf(int64_t shard) const { return shard * shard_images; }
  int64_t ImagesOf(int64_t shard) const;
};

// What every request of a set must agree on, from the receipts.
struct SetOrigin {
  int height = 0;
  int width = 0;
  int channels = 0;
  std::string sampler;
  int steps = 0;
  double guidance = 0;
  std::string weights_hash;
  std::string thresholds_hash;
  std::string build;
  bool operator==(const SetOrigin&) const = default;

  int64_t image_bytes() const { return int64_t{height} * width * channels; }
  // "build: expected 0.1.0, got 0.2.0"; empty when equal.
  std::string FirstDifference(const SetOrigin& other) const;
};

struct SetShard {
  std::string images_hash;  // XXH3-128 of the whole file, as Xxh3Hex
  std::string labels_hash;
  bool operator==(const SetShard&) const = default;
};

// Holds nothing that depends on when or in how many goes the set was made.
struct SetManifest {
  SetSpec spec;
  std::string checkpoint;              // "jobs/{id}/checkpoints/{step}", found once at the start
  std::optional<SetOrigin> origin;     // from the first finished request on
  std::map<int64_t, SetShard> shards;  // the complete ones

  int64_t ImagesDone() const;
};

// "images-00003.npy" and "labels-00003.npy".
std::string ImagesFile(int64_t shard);
std::string LabelsFile(int64_t shard);

// FAILED_PRECONDITION that names the first parameter in which `asked` differs from the set in
// `directory`. A seed that wasn't asked for fits every set.
absl::Status CheckSameSpec(const SetSpec& existing, const SetSpec& asked,
                           const std::string& directory);

absl::StatusOr<nlohmann::ordered_json> ManifestJson(const SetManifest& manifest);
// DATA_LOSS with the file and the field for text that ManifestJson doesn't make.
absl::StatusOr<SetManifest> ParseManifest(const std::string& text, const std::string& file);

}  // namespace diffmoe
