// Values as short text for people. Pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "google/protobuf/timestamp.pb.h"

namespace diffmoe {

// "0.8s", "45s", "4m12s", "3h05m", "2d04h"; "-" for a negative or non-finite value.
std::string DurationText(double seconds);
// "512 B", "1.5 KiB", "20.3 MiB".
std::string BytesText(int64_t bytes);
// Four significant digits, "-" when not finite.
std::string NumberText(double value);
// "2026-11-25 03:40:58Z"; "-" for an absent (zero) time.
std::string TimeText(const google::protobuf::Timestamp& time);
// Time from `time` to `now_ms` (Unix milliseconds) as DurationText; "-" for an absent time.
std::string AgeText(const google::protobuf::Timestamp& time, int64_t now_ms);
// Text from outside with control characters escaped.
std::string CleanText(absl::string_view text);
// `text`, cut to `width` bytes with "..." at the end when longer.
std::string CutText(absl::string_view text, size_t width);

}  // namespace diffmoe
