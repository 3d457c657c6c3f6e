#include "core/data/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
constexpr size_t kMaxDimensions = 64;

// Bytes of the tensor, or nothing when the product doesn't fit.
std::optional<int64_t> BytesOf(const std::vector<int64_t>& shape, int64_t element_bytes) {
  int64_t bytes = element_bytes;
  for (int64_t dimension : shape) {
    if (dimension == 0) return 0;
  }
  for (int64_t dimension : shape) {
    if (dimension < 0 || bytes > kMaxInt64 / dimension) return std::nullopt;
    bytes *= dimension;
  }
  return bytes;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ","), "]");
}

// Takes the parser's events one by one, so that memory grows only with well-formed tensors and
// nesting ends at once.
class HeaderHandler : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected(absl::StrCat("the number ", EscapeForLog(text)));
  }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool number_integer(number_integer_t value) override {
    return Unexpected(absl::StrCat("the negative number ", value));
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kNumbers) return Unexpected("a number");
    if (value > static_cast<uint64_t>(kMaxInt64)) {
      return Fail(absl::StrCat(Where(), ": ", field_, " has ", value, ", which is out of range"));
    }
    std::vector<int64_t>& list = field_ == "shape" ? current_.shape : offsets_;
    if (list.size() >= (field_ == "shape" ? kMaxDimensions : 2)) {
      return Fail(absl::StrCat(Where(), ": ", field_, " has too many numbers"));
    }
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      header_.metadata.emplace_back(field_, value);
      if (!seen_.insert(field_).second) {
        return Fail(absl::StrCat("metadata key '", EscapeForLog(field_), "' appears twice"));
      }
      return true;
    }
    if (place_ != Place::kTensor || field_ != "dtype") return Unexpected("a string");
    current_.dtype = value.substr(0, 32);
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop) {
      place_ = current_.name == "__metadata__" ? Place::kMetadata : Place::kTensor;
    } else {
      return Unexpected("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    if (place_ == Place::kTop) {
      if (!names_.insert(value).second) {
        return Fail(absl::StrCat("tensor '", EscapeForLog(value), "' appears twice"));
      }
      current_ = SafetensorsInfo{};
      current_.name = value;
      offsets_.clear();
      seen_.clear();
      return true;
    }
    field_ = value;
    if (place_ == Place::kMetadata) return true;
    if (value != "dtype" && value != "shape" && value != "data_offsets") {
      return Fail(
          absl::StrCat(Where(), ": unknown field '", EscapeForLog(value.substr(0, 64)), "'"));
    }
    if (!seen_.insert(value).second) {
      return Fail(absl::StrCat(Where(), ": ", value, " appears twice"));
    }
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") return Unexpected("a list");
    place_ = Place::kNumbers;
    return true;
  }
  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor && !FinishTensor()) return false;
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const Json::exception&) override {
    return Fail(absl::StrCat("the header is not valid JSON at byte ", position));
  }

  const std::string& error() const { return error_; }
  SafetensorsHeader Take() { return std::move(header_); }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kNumbers, kEnd };

  std::string Where() const { return absl::StrCat("tensor '", EscapeForLog(current_.name), "'"); }
  bool Fail(std::string message) {
    if (error_.empty()) error_ = std::move(message);
    return false;
  }
  bool Unexpected(absl::string_view what) {
    switch (place_) {
      case Place::kTensor:
      case Place::kNumbers:
        return Fail(absl::StrCat(Where(), ": unexpected ", what, " in ", field_));
      case Place::kMetadata:
        return Fail(absl::StrCat("metadata key '", EscapeForLog(field_), "' holds ", what,
                                 ", expected a string"));
      case Place::kTop:
        return Fail(absl::StrCat(Where(), " is ", what, ", expected an object"));
      default:
        return Fail(absl::StrCat("the header is ", what, ", expected an object"));
    }
  }

  bool FinishTensor() {
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (!seen_.contains(field)) return Fail(absl::StrCat(Where(), ": ", field, " is missing"));
    }
    const int64_t element_bytes = SafetensorsDtypeSize(current_.dtype);
    if (element_bytes == 0) {
      return Fail(absl::StrCat(Where(), ": unknown dtype '", EscapeForLog(current_.dtype), "'"));
    }
    if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) {
      return Fail(absl::StrCat(Where(), ": data_offsets is ", ShapeText(offsets_),
                               ", expected [begin,end] with begin <= end"));
    }
    const std::optional<int64_t> bytes = BytesOf(current_.shape, element_bytes);
    if (!bytes) {
      return Fail(absl::StrCat(Where(), ": shape ", ShapeText(current_.shape), " overflows"));
    }
    current_.offset = offsets_[0];
    current_.bytes = offsets_[1] - offsets_[0];
    if (current_.bytes != *bytes) {
      return Fail(absl::StrCat(Where(), ": shape ", ShapeText(current_.shape), " of ",
                               current_.dtype, " needs ", *bytes, " bytes, data_offsets give ",
                               current_.bytes));
    }
    header_.tensors.push_back(std::move(current_));
    return true;
  }

  Place place_ = Place::kStart;
  std::string field_;
  SafetensorsInfo current_;
  std::vector<int64_t> offsets_;
  std::set<std::string> seen_;
  std::set<std::string> names_;
  SafetensorsHeader header_;
  std::string error_;
};

// `text` as a JSON string. INVALID_ARGUMENT when it isn't UTF-8.
absl::StatusOr<std::string> Quoted(const std::string& text) {
  std::string quoted = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  const Json back = Json::parse(quoted, nullptr, /*allow_exceptions=*/false);
  if (!back.is_string() || back.get_ref<const std::string&>() != text) {
    return absl::InvalidArgumentError(absl::StrCat("'", EscapeForLog(text), "' is not UTF-8"));
  }
  return quoted;
}

}  // namespace

int64_t SafetensorsInfo::elements() const {
  int64_t product = 1;
  for (int64_t dimension : shape) product *= dimension;
  return product;
}

int64_t SafetensorsDtypeSize(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int64_t> kSizes[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},   {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I16", 2},
      {"U16", 2},  {"F16", 2}, {"BF16", 2}, {"I32", 4},     {"U32", 4},     {"F32", 4},
      {"I64", 8},  {"U64", 8}, {"F64", 8},  {"C64", 8}};
  for (const auto& [name, size] : kSizes) {
    if (name == dtype) return size;
  }
  return 0;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json,
                                                         int64_t data_bytes) {
  HeaderHandler handler;
  if (json.empty() || json.front() != '{') {
    return absl::DataLossError("the header does not begin with '{'");
  }
  if (!Json::sax_parse(json.begin(), json.end(), &handler)) {
    return absl::DataLossError(handler.error());
  }
  SafetensorsHeader header = handler.Take();
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const SafetensorsInfo& a, const SafetensorsInfo& b) {
              return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
            });
  int64_t end = 0;
  for (const SafetensorsInfo& tensor : header.tensors) {
    const std::string where = absl::StrCat("tensor '", EscapeForLog(tensor.name), "'");
    if (tensor.offset != end) {
      return absl::DataLossError(absl::StrCat(where, " begins at byte ", tensor.offset,
                                              ", expected ", end,
                                              tensor.offset < end ? " (overlap)" : " (gap)"));
    }
    if (tensor.bytes > data_bytes - end) {
      return absl::DataLossError(absl::StrCat(where, " ends past the end of the file: it needs ",
                                              tensor.bytes, " bytes, ", data_bytes - end,
                                              " are left"));
    }
    end += tensor.bytes;
  }
  if (end != data_bytes) {
    return absl::DataLossError(
        absl::StrCat("the tensors cover ", end, " bytes of data, the file has ", data_bytes));
  }
  return header;
}

absl::StatusOr<std::string> MakeSafetensorsHeader(const SafetensorsMetadata& metadata,
                                                  std::vector<SafetensorsInfo>& tensors) {
  std::vector<std::string> entries;
  if (!metadata.empty()) {
    std::vector<std::string> pairs;
    std::set<std::string_view> keys;
    for (const auto& [key, value] : metadata) {
      if (!keys.insert(key).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("metadata key '", EscapeForLog(key), "' appears twice"));
      }
      ASSIGN_OR_RETURN(const std::string quoted_key, Quoted(key));
      ASSIGN_OR_RETURN(const std::string quoted_value, Quoted(value));
      pairs.push_back(absl::StrCat(quoted_key, ":", quoted_value));
    }
    entries.push_back(absl::StrCat("\"__metadata__\":{", absl::StrJoin(pairs, ","), "}"));
  }
  std::set<std::string_view> names;
  int64_t end = 0;
  for (SafetensorsInfo& tensor : tensors) {
    const std::string where = absl::StrCat("tensor '", EscapeForLog(tensor.name), "'");
    if (tensor.name == "__metadata__" || !names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": the name is taken"));
    }
    const int64_t element_bytes = SafetensorsDtypeSize(tensor.dtype);
    if (element_bytes == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": unknown dtype '", tensor.dtype, "'"));
    }
    const std::optional<int64_t> bytes = BytesOf(tensor.shape, element_bytes);
    if (!bytes || *bytes > kMaxInt64 - end) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": shape ", ShapeText(tensor.shape), " is negative or overflows"));
    }
    tensor.offset = end;
    tensor.bytes = *bytes;
    end += *bytes;
    ASSIGN_OR_RETURN(const std::string quoted, Quoted(tensor.name));
    entries.push_back(absl::StrCat(quoted, ":{\"dtype\":\"", tensor.dtype,
                                   "\",\"shape\":", ShapeText(tensor.shape), ",\"data_offsets\":[",
                                   tensor.offset, ",", end, "]}"));
  }
  std::string json = absl::StrCat("{", absl::StrJoin(entries, ","), "}");
  json.append((8 - json.size() % 8) % 8, ' ');
  return json;
}

}  // namespace diffmoe
