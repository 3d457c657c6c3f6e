// Rules of the strings that callers choose. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "diffmoe/v1/error.pb.h"

namespace diffmoe::server {

inline constexpr size_t kMaxRequestTextBytes = 64;

// Well-formed UTF-8 without control characters, so without NUL.
bool IsCleanText(absl::string_view text);

// At most 64 bytes of clean text; names `field` in a violation.
void CheckRequestText(const std::string& field, const std::string& text,
                      std::vector<v1::FieldViolation>* violations);

}  // namespace diffmoe::server
