#include "client/replay/comparison.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/output/text.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

// A side that doesn't say its value is not a change.
bool AddChange(const char* what, const std::string& before, const std::string& now,
               ReplayComparison* comparison) {
  if (before.empty() || now.empty() || before == now) return false;
  comparison->changed.push_back(absl::StrCat(what, " ", CleanText(before), " -> ", CleanText(now)));
  return true;
}

}  // namespace

ReplayComparison CompareReplay(const v1::Receipt& old_receipt, const v1::Receipt& new_receipt,
                               const std::vector<std::string>& hashes) {
  ReplayComparison comparison;
  comparison.images = old_receipt.image_hashes_size();
  for (int i = 0; i < comparison.images; ++i) {
    const std::string now = static_cast<size_t>(i) < hashes.size() ? hashes[i] : "";
    if (old_receipt.image_hashes(i) == now) {
      ++comparison.equal;
    } else if (comparison.first_difference < 0) {
      comparison.first_difference = i;
      comparison.expected_hash = old_receipt.image_hashes(i);
      comparison.got_hash = now;
    }
  }
  const bool weights =
      AddChange("weights", old_receipt.weights_hash(), new_receipt.weights_hash(), &comparison);
  const bool thresholds = AddChange("thresholds", old_receipt.thresholds_hash(),
                                    new_receipt.thresholds_hash(), &comparison);
  AddChange("build", old_receipt.build(), new_receipt.build(), &comparison);
  comparison.weights_or_thresholds = weights || thresholds;
  comparison.fast = old_receipt.numeric_mode() == v1::FAST;
  return comparison;
}

std::string ComparisonText(const ReplayComparison& comparison) {
  std::string text = absl::StrCat(comparison.equal, " of ", comparison.images, " images equal\n");
  if (comparison.first_difference >= 0) {
    absl::StrAppend(&text, "first difference: image ", comparison.first_difference, ", expected ",
                    comparison.expected_hash, ", got ", comparison.got_hash, "\n");
  }
  if (!comparison.changed.empty()) {
    absl::StrAppend(&text, "changed: ", absl::StrJoin(comparison.changed, ", "), "\n");
  } else if (comparison.first_difference >= 0) {
    absl::StrAppend(&text, "weights, thresholds and build are as before",
                    comparison.fast ? "; the mode FAST promises equal images to rounding only" : "",
                    "\n");
  }
  return text;
}

nlohmann::ordered_json ComparisonJson(const ReplayComparison& comparison) {
  nlohmann::ordered_json json;
  json["images"] = comparison.images;
  json["equal"] = comparison.equal;
  json["same"] = comparison.same();
  if (comparison.first_difference >= 0) {
    json["first_difference"] = {{"image", comparison.first_difference},
                                {"expected", comparison.expected_hash},
                                {"got", comparison.got_hash}};
  }
  json["changed"] = comparison.changed;
  return json;
}

}  // namespace diffmoe
