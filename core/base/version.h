// Versions that processes tell each other.
#pragma once

namespace diffmoe {

inline constexpr char kVersion[] = "0.1.0";
// Version of the private plane between coordinator, worker and rank. Unequal versions refuse each
// other.
inline constexpr int kProtocolVersion = 4;

}  // namespace diffmoe
