// Defaults and rules of a training spec. Pure and thread-safe.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "diffmoe/v1/error.pb.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe {

// Fills every absent field that has a default, absent sections included. Required sections and
// fields stay absent.
void ApplyDefaults(v1::TrainingSpec* spec);

// All violations at once, in the order of the fields; empty when the spec can be run. Absent fields
// are judged by their defaults, so the result is the same before and after ApplyDefaults. Each
// violation names field, expected and got; `line` is 0. A rule over several fields is judged only
// when each of them is valid by itself, and reported at one of them. `unreadable`: paths of fields
// whose values are already known to be bad; nothing more is said about them.
std::vector<v1::FieldViolation> ValidateSpec(const v1::TrainingSpec& spec,
                                             const std::set<std::string>& unreadable = {});

}  // namespace diffmoe
