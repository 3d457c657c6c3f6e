#include "client/output/log_text.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/message_json.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

// Colours that can be read on light and dark ground: cyan, green, magenta, yellow, blue, red.
constexpr std::array<int, 6> kColors = {36, 32, 35, 33, 34, 31};

// The line itself has its own escapes; only what a terminal would act upon is replaced.
std::string WithoutControls(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if (byte == 0xc2 && next >= 0x80 && next <= 0x9f) {  // C1 controls
      absl::StrAppendFormat(&out, "\\x%02x", next);
      ++i;
    } else if ((byte < 0x20 && byte != '\t') || byte == 0x7f) {
      absl::StrAppendFormat(&out, "\\x%02x", byte);
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string Json(const v1::LogLine& line) { return MessageToJson(line).value_or("{}"); }

}  // namespace

std::string LogText(const v1::LogLine& line, const LogTextOptions& options) {
  if (options.format == OutputFormat::kJson) return Json(line) + "\n";
  if (options.format == OutputFormat::kYaml) {
    auto list = nlohmann::ordered_json::array();
    list.push_back(nlohmann::ordered_json::parse(Json(line), nullptr, /*allow_exceptions=*/false));
    return JsonText(list, OutputFormat::kYaml);
  }
  std::string prefix;
  if (options.rank) prefix = absl::StrCat("[rank ", line.rank(), "]");
  if (options.rank && options.color) {
    const int color = kColors[static_cast<size_t>(line.rank()) % kColors.size()];
    prefix = absl::StrCat("\x1b[", color, "m", prefix, "\x1b[0m");
  }
  return absl::StrCat(prefix, prefix.empty() ? "" : " ", WithoutControls(line.text()), "\n");
}

}  // namespace diffmoe
