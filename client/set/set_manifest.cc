#include "client/set/set_manifest.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/output/message.h"
#include "core/base/status_macros.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFormat[] = "diffmoe-sample-set/1";
// Bounds on what set.json may claim.
constexpr int64_t kMaxImages = 1'000'000'000;
constexpr int kMaxSide = 4096;

absl::StatusOr<Json> RequestJson(const v1::SampleRequest& request) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(request, &text, options);
  if (!status.ok()) return absl::InternalError(std::string(status.message()));
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

// Reads members of one JSON object; the first fault stays.
class Reader {
 public:
  Reader(const Json& object, std::string place, absl::Status* status)
      : object_(object), place_(std::move(place)), status_(*status) {
    if (!object.is_object()) Fault("", "an object");
  }

  int64_t Integer(const char* key, int64_t low, int64_t high) {
    const Json* value = Find(key);
    if (value != nullptr && value->is_number_integer()) {
      const auto number = value->get<int64_t>();
      if (number >= low && number <= high) return number;
    }
    Fault(key, absl::StrCat("a whole number from ", low, " to ", high));
    return low;
  }
  double Number(const char* key) {
    const Json* value = Find(key);
    if (value != nullptr && value->is_number()) return value->get<double>();
    Fault(key, "a number");
    return 0;
  }
  std::string Text(const char* key) {
    const Json* value = Find(key);
    if (value != nullptr && value->is_string()) return value->get<std::string>();
    Fault(key, "a text");
    return "";
  }
  const Json& Member(const char* key) {
    static const Json kNothing;
    const Json* value = Find(key);
    if (value == nullptr) Fault(key, "a value");
    return value == nullptr ? kNothing : *value;
  }

 private:
  const Json* Find(const char* key) const {
    return object_.is_object() && object_.contains(key) ? &object_[key] : nullptr;
  }
  void Fault(const std::string& key, const std::string& expected) {
    if (!status_.ok()) return;
    status_ = absl::DataLossError(absl::StrCat(place_, key.empty() ? "" : ": ", key, ": expected ",
                                               expected, ", got something else"));
  }

  const Json& object_;
  const std::string place_;
  absl::Status& status_;
};

Json OriginJson(const SetOrigin& origin) {
  Json json;
  json["height"] = origin.height;
  json["width"] = origin.width;
  json["channels"] = origin.channels;
  json["sampler"] = origin.sampler;
  json["steps"] = origin.steps;
  json["guidance"] = origin.guidance;
  json["weights_hash"] = origin.weights_hash;
  json["thresholds_hash"] = origin.thresholds_hash;
  json["build"] = origin.build;
  return json;
}

SetOrigin ReadOrigin(const Json& json, const std::string& place, absl::Status* status) {
  Reader in(json, place, status);
  SetOrigin origin;
  origin.height = static_cast<int>(in.Integer("height", 1, kMaxSide));
  origin.width = static_cast<int>(in.Integer("width", 1, kMaxSide));
  origin.channels = static_cast<int>(in.Integer("channels", 1, 16));
  origin.sampler = in.Text("sampler");
  origin.steps = static_cast<int>(in.Integer("steps", 0, 1000));
  origin.guidance = in.Number("guidance");
  origin.weights_hash = in.Text("weights_hash");
  origin.thresholds_hash = in.Text("thresholds_hash");
  origin.build = in.Text("build");
  return origin;
}

void ReadClasses(const Json& json, const std::string& file, SetSpec* spec, absl::Status* status) {
  for (const Json& label : json) {
    if (label.is_number_integer()) spec->classes.push_back(label.get<int32_t>());
  }
  if (status->ok() && (!json.is_array() || json.empty() || spec->classes.size() != json.size())) {
    *status = absl::DataLossError(
        absl::StrCat(file, ": classes: expected a list of numbers, got something else"));
  }
}

void ReadShards(const Json& json, const std::string& file, SetManifest* manifest,
                absl::Status* status) {
  for (const Json& item : json) {
    Reader in(item, absl::StrCat(file, ": shards"), status);
    const int64_t index = in.Integer("index", 0, std::max<int64_t>(0, manifest->spec.shards() - 1));
    SetShard shard;
    shard.images_hash = in.Text("images_hash");
    shard.labels_hash = in.Text("labels_hash");
    manifest->shards[index] = shard;
  }
}

std::string ValueText(const Json& object, const std::string& key) {
  return object.contains(key) ? object[key].dump() : "the default";
}

}  // namespace

int32_t SetSpec::LabelOf(int64_t image) const {
  return classes[static_cast<size_t>(image % static_cast<int64_t>(classes.size()))];
}

int64_t SetSpec::ImagesOf(int64_t shard) const {
  return std::min(shard_images, count - FirstOf(shard));
}

std::string SetOrigin::FirstDifference(const SetOrigin& other) const {
  const Json mine = OriginJson(*this);
  const Json theirs = OriginJson(other);
  for (const auto& [key, value] : mine.items()) {
    if (value != theirs[key]) {
      return absl::StrCat(key, ": expected ", value.dump(), ", got ", theirs[key].dump());
    }
  }
  return "";
}

int64_t SetManifest::ImagesDone() const {
  int64_t images = 0;
  for (const auto& [index, shard] : shards) images += spec.ImagesOf(index);
  return images;
}

std::string ImagesFile(int64_t shard) { return absl::StrFormat("images-%05d.npy", shard); }
std::string LabelsFile(int64_t shard) { return absl::StrFormat("labels-%05d.npy", shard); }

absl::Status CheckSameSpec(const SetSpec& existing, const SetSpec& asked,
                           const std::string& directory) {
  const auto differs = [&](absl::string_view field, const std::string& has,
                           const std::string& wanted) {
    return absl::FailedPreconditionError(absl::StrCat(directory, " holds another set: ", field,
                                                      ": it has ", has, ", asked for ", wanted));
  };
  v1::SampleRequest wanted = asked.request;
  if (!wanted.has_seed()) wanted.set_seed(existing.request.seed());
  ASSIGN_OR_RETURN(const Json has_json, RequestJson(existing.request));
  ASSIGN_OR_RETURN(const Json wanted_json, RequestJson(wanted));
  const auto* type = v1::SampleRequest::descriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const std::string& name = type->field(i)->name();
    const std::string has = ValueText(has_json, name);
    const std::string want = ValueText(wanted_json, name);
    if (has != want) return differs(name, has, want);
  }
  if (existing.count != asked.count) {
    return differs("count", absl::StrCat(existing.count), absl::StrCat(asked.count));
  }
  if (existing.classes != asked.classes) {
    return differs("classes", Json(existing.classes).dump(), Json(asked.classes).dump());
  }
  if (existing.shard_images != asked.shard_images) {
    return differs("shard_images", absl::StrCat(existing.shard_images),
                   absl::StrCat(asked.shard_images));
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> ManifestJson(const SetManifest& manifest) {
  const SetSpec& spec = manifest.spec;
  Json json;
  json["format"] = kFormat;
  json["checkpoint"] = manifest.checkpoint;
  json["count"] = spec.count;
  json["classes"] = spec.classes;
  json["shard_images"] = spec.shard_images;
  ASSIGN_OR_RETURN(json["request"], RequestJson(spec.request));
  if (manifest.origin.has_value()) json["origin"] = OriginJson(*manifest.origin);
  json["images_done"] = manifest.ImagesDone();
  json["complete"] = manifest.ImagesDone() == spec.count;
  json["shards"] = Json::array();
  for (const auto& [index, shard] : manifest.shards) {
    Json item;
    item["index"] = index;
    item["first_image"] = spec.FirstOf(index);
    item["images"] = spec.ImagesOf(index);
    item["images_file"] = ImagesFile(index);
    item["images_hash"] = shard.images_hash;
    item["labels_file"] = LabelsFile(index);
    item["labels_hash"] = shard.labels_hash;
    json["shards"].push_back(std::move(item));
  }
  return json;
}

absl::StatusOr<SetManifest> ParseManifest(const std::string& text, const std::string& file) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  absl::Status status;
  Reader in(json, file, &status);
  SetManifest manifest;
  SetSpec& spec = manifest.spec;
  if (in.Text("format") != kFormat && status.ok()) {
    status = absl::DataLossError(absl::StrCat(file, ": format: expected ", kFormat));
  }
  manifest.checkpoint = in.Text("checkpoint");
  spec.count = in.Integer("count", 1, kMaxImages);
  spec.shard_images = in.Integer("shard_images", 1, kMaxImages);
  ReadClasses(in.Member("classes"), file, &spec, &status);
  RETURN_IF_ERROR(status);
  const auto parsed =
      google::protobuf::util::JsonStringToMessage(in.Member("request").dump(), &spec.request);
  if (!parsed.ok()) {
    return absl::DataLossError(
        absl::StrCat(file, ": request: expected a request, got: ", std::string(parsed.message())));
  }
  if (json.contains("origin")) {
    manifest.origin = ReadOrigin(json["origin"], absl::StrCat(file, ": origin"), &status);
  }
  ReadShards(in.Member("shards"), file, &manifest, &status);
  RETURN_IF_ERROR(status);
  return manifest;
}

}  // namespace diffmoe
