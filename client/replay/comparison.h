// Images made again beside those of a receipt.
#pragma once

#include <string>
#include <vector>

#include "diffmoe/v1/sampling.pb.h"
#include "nlohmann/json_fwd.hpp"

namespace diffmoe {

struct ReplayComparison {
  int images = 0;
  int equal = 0;
  int first_difference = -1;           // index of the first image that differs
  std::string expected_hash;           // of that image, in the receipt
  std::string got_hash;                // of that image, now
  std::vector<std::string> changed;    // "weights 12ab -> 34cd", and so on
  bool weights_or_thresholds = false;  // whether one of those changed
  bool fast = false;                   // the receipt's mode gives no promise of equal bits

  // All images, weights and thresholds are what they were.
  bool same() const { return equal == images && !weights_or_thresholds; }
};

// hashes: of the images made now, as many as the old receipt has.
ReplayComparison CompareReplay(const v1::Receipt& old_receipt, const v1::Receipt& new_receipt,
                               const std::vector<std::string>& hashes);

// "100 of 100 images equal", and what differs.
std::string ComparisonText(const ReplayComparison& comparison);
nlohmann::ordered_json ComparisonJson(const ReplayComparison& comparison);

}  // namespace diffmoe
