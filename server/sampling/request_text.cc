#include "server/sampling/request_text.h"

#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

// Bytes of the well-formed character at the front; 0 when there is none.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || length > text.size()) return 0;
  uint32_t code = lead & (0xffu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = (code << 6) | (byte(i) & 0x3fu);
  }
  static constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return code < kSmallest[length] || code > 0x10ffff || surrogate ? 0 : length;
}

bool IsControl(absl::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  const bool c1 = first == 0xc2 && text.size() > 1 && static_cast<unsigned char>(text[1]) < 0xa0;
  return first < 0x20 || first == 0x7f || c1;
}

}  // namespace

bool IsCleanText(absl::string_view text) {
  while (!text.empty()) {
    const size_t length = CharacterBytes(text);
    if (length == 0 || IsControl(text)) return false;
    text.remove_prefix(length);
  }
  return true;
}

void CheckRequestText(const std::string& field, const std::string& text,
                      std::vector<v1::FieldViolation>* violations) {
  if (text.size() > kMaxRequestTextBytes) {
    violations->push_back(Violation(field, absl::StrCat("expected at most ", kMaxRequestTextBytes,
                                                        " bytes, got ", text.size())));
  } else if (!IsCleanText(text)) {
    violations->push_back(
        Violation(field, absl::StrCat("expected UTF-8 text without control characters, got \"",
                                      absl::CHexEscape(text), "\"")));
  }
}

}  // namespace diffmoe::server
