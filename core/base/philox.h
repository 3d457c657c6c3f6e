// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A draw is a pure function of (seed, stream, index), so it doesn't depend on
// rank, world size or call order.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace diffmoe {

// What a number is used for; part of the counter, so that uses never share draws.
enum class RandomUse : uint32_t {
  kWeights = 1,
  kDataOrder = 2,
  kNoise = 3,
  kTime = 4,
  kLabelDrop = 5,
  kFlip = 6,
  kSampleNoise = 7,
};

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Random numbers of one (seed, use, major, minor), for example (seed, kNoise, step, global sample
// index). major < 2^40 (step, tensor index); minor < 2^32 (sample or image index). A stream holds
// 2^32 blocks.
class RandomStream {
 public:
  RandomStream(uint64_t seed, RandomUse use, uint64_t major, uint32_t minor);

  // The i-th block of four 32-bit words.
  std::array<uint32_t, 4> Block(uint32_t index) const;
  // The first number, uniform in [0, 1) with 24 bits.
  float Uniform() const;
  double UniformDouble() const;
  // Standard normal numbers by Box-Muller; out[i] depends on i only.
  void Normal(std::span<float> out) const;
  float FirstNormal() const;

 private:
  std::array<uint32_t, 2> key_;
  uint32_t use_and_major_high_;
  uint32_t major_low_;
  uint32_t minor_;
};

// A keyed permutation of [0, size): position -> element. Each epoch (pass over the data) has its
// own order. Format-preserving: a Feistel network over Philox with cycle walking.
class KeyedPermutation {
 public:
  KeyedPermutation(uint64_t seed, uint64_t epoch, uint64_t size);
  uint64_t operator()(uint64_t position) const;

 private:
  uint64_t Encrypt(uint64_t value) const;
  std::array<uint32_t, 2> key_;
  uint64_t epoch_;
  uint64_t size_;
  uint32_t half_bits_;
};

}  // namespace diffmoe
