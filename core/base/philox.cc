#include "core/base/philox.h"

#include <cmath>
#include <cstddef>

namespace diffmoe {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

// (0, 1]: safe for the logarithm.
double OpenUniform(uint32_t word) { return (static_cast<double>(word) + 1.0) * 0x1p-32; }

}  // namespace

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

RandomStream::RandomStream(uint64_t seed, RandomUse use, uint64_t major, uint32_t minor)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      use_and_major_high_(static_cast<uint32_t>(use) << 8 |
                          (static_cast<uint32_t>(major >> 32) & 0xFF)),
      major_low_(static_cast<uint32_t>(major)),
      minor_(minor) {}

std::array<uint32_t, 4> RandomStream::Block(uint32_t index) const {
  return Philox4x32({index, use_and_major_high_, major_low_, minor_}, key_);
}

float RandomStream::Uniform() const { return static_cast<float>(Block(0)[0] >> 8) * 0x1p-24f; }

double RandomStream::UniformDouble() const {
  const auto block = Block(0);
  const uint64_t bits = (static_cast<uint64_t>(block[0]) << 32 | block[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

void RandomStream::Normal(std::span<float> out) const {
  constexpr double kTwoPi = 6.283185307179586;
  for (size_t begin = 0; begin < out.size(); begin += 4) {
    const auto block = Block(static_cast<uint32_t>(begin / 4));
    for (size_t pair = 0; pair < 2; ++pair) {
      const double radius = std::sqrt(-2.0 * std::log(OpenUniform(block[2 * pair])));
      const double angle = kTwoPi * OpenUniform(block[2 * pair + 1]);
      const size_t i = begin + 2 * pair;
      if (i < out.size()) out[i] = static_cast<float>(radius * std::cos(angle));
      if (i + 1 < out.size()) out[i + 1] = static_cast<float>(radius * std::sin(angle));
    }
  }
}

float RandomStream::FirstNormal() const {
  float value = 0;
  Normal(std::span<float>(&value, 1));
  return value;
}

KeyedPermutation::KeyedPermutation(uint64_t seed, uint64_t epoch, uint64_t size)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      epoch_(epoch),
      size_(size),
      half_bits_(1) {
  while ((uint64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
}

uint64_t KeyedPermutation::Encrypt(uint64_t value) const {
  const uint32_t mask = static_cast<uint32_t>((uint64_t{1} << half_bits_) - 1);
  uint32_t left = static_cast<uint32_t>(value >> half_bits_),
           right = static_cast<uint32_t>(value) & mask;
  for (uint32_t round = 0; round < 6; ++round) {
    const uint32_t use = static_cast<uint32_t>(RandomUse::kDataOrder) << 8 | round;
    const auto word = Philox4x32(
        {right, use, static_cast<uint32_t>(epoch_), static_cast<uint32_t>(epoch_ >> 32)}, key_);
    const uint32_t next = left ^ (word[0] & mask);
    left = right;
    right = next;
  }
  return static_cast<uint64_t>(left) << half_bits_ | right;
}

uint64_t KeyedPermutation::operator()(uint64_t position) const {
  uint64_t value = Encrypt(position);
  while (value >= size_) value = Encrypt(value);  // the domain is at most four times the size
  return value;
}

}  // namespace diffmoe
