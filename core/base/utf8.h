// Text from outside as valid UTF-8. Pure.
#pragma once

#include <string>
#include <string_view>

namespace diffmoe {

// `text` with every byte that is no part of a valid sequence replaced by U+FFFD.
std::string ValidUtf8(std::string_view text);

}  // namespace diffmoe
