// Rules over several fields of a training spec. A part of ValidateSpec (validate.h), which see.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "diffmoe/v1/error.pb.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe {

// Appends a violation for each broken rule of which no field is in `bad` (a section in `bad` stands
// for all its fields). `complete`: defaults applied.
void CheckCrossRules(const v1::TrainingSpec& complete, const std::set<std::string>& bad,
                     std::vector<v1::FieldViolation>* violations);

}  // namespace diffmoe
