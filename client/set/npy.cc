#include "client/set/npy.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace diffmoe {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie");

std::string Header(const char* type, absl::Span<const int64_t> shape) {
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kPrefix = 10;  // magic, version, length
  // A tuple of one ends with a comma.
  std::string text = absl::StrCat("{'descr': '", type, "', 'fortran_order': False, 'shape': (",
                                  absl::StrJoin(shape, ", "), shape.size() == 1 ? ",), }" : "), }");
  const size_t whole = (kPrefix + text.size() + 1 + kAlignment - 1) / kAlignment * kAlignment;
  text.append(whole - kPrefix - text.size() - 1, ' ');
  text.push_back('\n');
  std::string header("\x93NUMPY\x01\x00", 8);
  header.push_back(static_cast<char>(text.size() & 0xff));
  header.push_back(static_cast<char>(text.size() >> 8));
  return header + text;
}

}  // namespace

std::string NpyBytes(absl::Span<const int64_t> shape, const std::string& bytes) {
  return Header("|u1", shape) + bytes;
}

std::string NpyInt64(absl::Span<const int64_t> values) {
  std::string file = Header("<i8", {static_cast<int64_t>(values.size())});
  file.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int64_t));
  return file;
}

}  // namespace diffmoe
