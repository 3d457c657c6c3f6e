#include "core/data/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

using ::testing::TempDir;

std::string TestPath(const std::string& name) {
  const std::string folder =
      absl::StrCat(TempDir(), "safetensors_", ::getpid(), "_",
                   ::testing::UnitTest::GetInstance()->current_test_info()->name());
  std::filesystem::create_directories(folder);
  return absl::StrCat(folder, "/", name);
}

// Writes length + json + data, with the length taken from `json` unless given.
std::string WriteRaw(const std::string& json, const std::string& data,
                     std::optional<uint64_t> length = std::nullopt) {
  const std::string path = TestPath("raw.safetensors");
  const uint64_t header = length.value_or(json.size());
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header), 8);
  file << json << data;
  file.close();
  return path;
}

std::string Tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}");
}

// Opens a file made of these parts; expects DATA_LOSS whose message holds `words`.
void ExpectDataLoss(const std::string& json, size_t data_bytes, const std::string& words) {
  const std::string path = WriteRaw(json, std::string(data_bytes, 'x'));
  auto reader = SafetensorsReader::Open(path);
  ASSERT_FALSE(reader.ok()) << json;
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kDataLoss) << reader.status();
  const std::string message(reader.status().message());
  EXPECT_NE(message.find(words), std::string::npos)
      << "got: " << message << "\nexpected: " << words;
  EXPECT_NE(message.find(path), std::string::npos) << message;
}

TEST(SafetensorsTest, RoundTrip) {
  const std::vector<float> weights = {1.5f, -2, 0, 3e30f, 1e-40f, 7};
  const std::string bytes("\x01\x00\xff", 3);
  const std::string path = TestPath("model.safetensors");
  ASSERT_TRUE(WriteSafetensors(path, {{"note", "tab\t \"quote\" \xc3\xa9"}, {"format", "pt"}},
                               {{"w",
                                 "F32",
                                 {2, 3},
                                 {reinterpret_cast<const char*>(weights.data()),
                                  weights.size() * sizeof(float)}},
                                {"empty", "I64", {0, 5}, ""},
                                {"mask", "U8", {3}, bytes},
                                {"scalar", "BOOL", {}, std::string_view("\x01", 1)}})
                  .ok());
  auto reader = SafetensorsReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->metadata(),
            (SafetensorsMetadata{{"note", "tab\t \"quote\" \xc3\xa9"}, {"format", "pt"}}));
  EXPECT_EQ(*(*reader)->FindMetadata("format"), "pt");
  EXPECT_EQ((*reader)->FindMetadata("absent"), nullptr);
  ASSERT_EQ((*reader)->tensors().size(), 4u);
  EXPECT_EQ((*reader)->Find("w")->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*reader)->Find("w")->elements(), 6);
  EXPECT_EQ((*reader)->Find("scalar")->elements(), 1);
  EXPECT_EQ((*reader)->Find("absent"), nullptr);
  EXPECT_EQ(*(*reader)->ReadFloats("w"), weights);
  EXPECT_EQ(*(*reader)->Read("mask"), bytes);
  EXPECT_EQ(*(*reader)->Read("empty"), "");
  EXPECT_EQ((*reader)->ReadFloats("mask").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((*reader)->Read("absent").status().code(), absl::StatusCode::kNotFound);
  std::string small(2, ' ');
  EXPECT_EQ((*reader)->ReadInto(*(*reader)->Find("mask"), absl::MakeSpan(small)).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SafetensorsTest, StreamingWriterShowsNothingUntilFinished) {
  const std::string path = TestPath("stream.safetensors");
  {
    auto writer = SafetensorsWriter::Create(path, {}, {{.name = "a", .dtype = "U8", .shape = {4}}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE((*writer)->Append("ab").ok());
    EXPECT_EQ((*writer)->Finish().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ((*writer)->Append("cde").code(), absl::StatusCode::kInvalidArgument);
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  EXPECT_TRUE(std::filesystem::is_empty(std::filesystem::path(path).parent_path()));
  auto writer = SafetensorsWriter::Create(path, {}, {{.name = "a", .dtype = "U8", .shape = {4}}});
  ASSERT_TRUE(writer.ok());
  EXPECT_TRUE((*writer)->Append("ab").ok());
  EXPECT_TRUE((*writer)->Append("cd").ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  auto reader = SafetensorsReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(*(*reader)->Read("a"), "abcd");
}

TEST(SafetensorsTest, WriterRefusesBadTensors) {
  const std::string path = TestPath("bad.safetensors");
  const auto code = [&](std::vector<SafetensorsInfo> infos) {
    return SafetensorsWriter::Create(path, {}, std::move(infos)).status().code();
  };
  EXPECT_EQ(code({{.name = "a", .dtype = "F31", .shape = {1}}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{.name = "a", .dtype = "F32", .shape = {-1}}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{.name = "a", .dtype = "F32", .shape = {int64_t{1} << 40, int64_t{1} << 40}}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{.name = "a", .dtype = "F32", .shape = {1}},
                  {.name = "a", .dtype = "F32", .shape = {}}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{.name = "__metadata__", .dtype = "F32", .shape = {}}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{.name = "\xff", .dtype = "F32", .shape = {}}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteSafetensors(path, {{"k", "1"}, {"k", "2"}}, {}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteSafetensors(path, {}, {{"a", "F32", {2}, "1234"}}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteSafetensors("/no/such/folder/x.safetensors", {}, {}).code(),
            absl::StatusCode::kNotFound);
}

TEST(SafetensorsTest, AbsurdHeaderLengths) {
  const std::string json = absl::StrCat("{", Tensor("a", "U8", "[1]", "[0,1]"), "}");
  struct rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  for (uint64_t length :
       {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{100'000'000}, uint64_t{json.size()} + 2}) {
    auto reader = SafetensorsReader::Open(WriteRaw(json, "x", length));
    EXPECT_EQ(reader.status().code(), absl::StatusCode::kDataLoss) << length << reader.status();
  }
  // A length within a (sparse) file, but over the limit.
  const std::string path = WriteRaw(json, "x", uint64_t{100'000'000});
  std::filesystem::resize_file(path, 200'000'000);
  EXPECT_EQ(SafetensorsReader::Open(path).status().code(), absl::StatusCode::kDataLoss);
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 50'000) << "kilobytes";
}

TEST(SafetensorsTest, ShortAndStrangeFiles) {
  for (size_t bytes = 0; bytes < 8; ++bytes) {
    const std::string path = TestPath("short.safetensors");
    std::ofstream(path, std::ios::binary) << std::string(bytes, '\0');
    EXPECT_EQ(SafetensorsReader::Open(path).status().code(), absl::StatusCode::kDataLoss) << bytes;
  }
  EXPECT_EQ(SafetensorsReader::Open(TestPath("absent")).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsReader::Open("/dev/zero").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SafetensorsReader::Open(TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
  const std::string fifo = TestPath("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(SafetensorsReader::Open(fifo).status().code(), absl::StatusCode::kInvalidArgument);
  for (const std::string& head : {std::string("PK\x03\x04\x00\x00\x08\x08", 8),
                                  std::string("\x80\x02\x8a\nl\xfc\x9c\x46", 8)}) {
    const std::string path = TestPath("model.pt");
    std::ofstream(path, std::ios::binary) << head << std::string(100, 'x');
    auto reader = SafetensorsReader::Open(path);
    EXPECT_EQ(reader.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(reader.status().message().find("pickle"), std::string::npos) << reader.status();
  }
}

TEST(SafetensorsTest, EveryTruncationIsFound) {
  const std::string path = TestPath("whole.safetensors");
  ASSERT_TRUE(
      WriteSafetensors(path, {{"k", "v"}}, {{"a", "U8", {5}, "12345"}, {"b", "F32", {1}, "abcd"}})
          .ok());
  const auto size = std::filesystem::file_size(path);
  for (size_t kept = 0; kept < size; ++kept) {
    const std::string cut = TestPath("cut.safetensors");
    std::filesystem::copy_file(path, cut, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(cut, kept);
    EXPECT_EQ(SafetensorsReader::Open(cut).status().code(), absl::StatusCode::kDataLoss) << kept;
  }
}

TEST(SafetensorsTest, OffsetsMustTileTheData) {
  const std::string a = Tensor("a", "U8", "[4]", "[0,4]");
  const std::string where = "tensor 'b'";
  ExpectDataLoss(absl::StrCat("{", a, ",", Tensor("b", "U8", "[4]", "[2,6]"), "}"), 6,
                 where + " begins at byte 2, expected 4 (overlap)");
  ExpectDataLoss(absl::StrCat("{", a, ",", Tensor("b", "U8", "[4]", "[0,4]"), "}"), 4, "(overlap)");
  ExpectDataLoss(absl::StrCat("{", a, ",", Tensor("b", "U8", "[4]", "[6,10]"), "}"), 10,
                 where + " begins at byte 6, expected 4 (gap)");
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[4]", "[1,5]"), "}"), 5, "(gap)");
  ExpectDataLoss(absl::StrCat("{", a, ",", Tensor("b", "U8", "[4]", "[4,8]"), "}"), 7,
                 where + " ends past the end");
  ExpectDataLoss(
      absl::StrCat("{", Tensor("b", "U8", "[9223372036854775807]", "[0,9223372036854775807]"), "}"),
      7, where + " ends past the end");
  ExpectDataLoss(absl::StrCat("{", a, "}"), 5, "cover 4 bytes of data, the file has 5");
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[4]", "[4,0]"), "}"), 4, where);
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[4]", "[0]"), "}"), 4, where);
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[4]", "[0,2,4]"), "}"), 4, where);
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[4]", "[0,18446744073709551615]"), "}"), 4,
                 where);
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[4]", "[-4,0]"), "}"), 4, where);
}

TEST(SafetensorsTest, ShapesMustFitTheBytes) {
  const std::string where = "tensor 'b'";
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "F32", "[4294967296,4294967296]", "[0,4]"), "}"), 4,
                 where + ": shape [4294967296,4294967296] overflows");
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "F32", "[4611686018427387904]", "[0,0]"), "}"), 0,
                 where + ": shape [4611686018427387904] overflows");
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "F64", "[2]", "[0,8]"), "}"), 8,
                 where + ": shape [2] of F64 needs 16 bytes");
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "BF16", "[]", "[0,4]"), "}"), 4, where);
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "F31", "[1]", "[0,4]"), "}"), 4,
                 where + ": unknown dtype 'F31'");
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[-4]", "[0,4]"), "}"), 4, where);
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[4.0]", "[0,4]"), "}"), 4, where);
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[1e400]", "[0,4]"), "}"), 4, "");
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "[[4]]", "[0,4]"), "}"), 4, where);
  ExpectDataLoss(absl::StrCat("{", Tensor("b", "U8", "\"4\"", "[0,4]"), "}"), 4, where);
}

TEST(SafetensorsTest, MalformedHeaders) {
  const std::string a = Tensor("a", "U8", "[4]", "[0,4]");
  ExpectDataLoss(absl::StrCat("{", a, ",", a, "}"), 4, "tensor 'a' appears twice");
  ExpectDataLoss("{\"b\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
                 4, "dtype appears twice");
  ExpectDataLoss("{\"b\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4,
                 "tensor 'b': data_offsets is missing");
  ExpectDataLoss("{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"x\":{}}}", 4,
                 "tensor 'b': unknown field 'x'");
  ExpectDataLoss("{\"b\":7}", 4, "tensor 'b' is a number");
  ExpectDataLoss("{\"b\":null}", 4, "tensor 'b'");
  ExpectDataLoss("{\"__metadata__\":{\"k\":1}}", 0, "metadata key 'k'");
  ExpectDataLoss("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0,
                 "metadata key 'k' appears twice");
  ExpectDataLoss("[1]", 0, "does not begin with '{'");
  ExpectDataLoss("", 0, "does not begin with '{'");
  ExpectDataLoss("{", 0, "not valid JSON");
  ExpectDataLoss("{} {}", 0, "not valid JSON");
  ExpectDataLoss("{\"\xff\":7}", 0, "not valid JSON");
  // Nesting is refused at its second level, before it can cost anything.
  std::string deep = "{";
  for (int i = 0; i < 1'000'000; ++i) deep += "\"a\":{";
  ExpectDataLoss(deep, 0, "tensor 'a'");
}

TEST(SafetensorsTest, NamesAreEscapedInMessages) {
  auto reader = SafetensorsReader::Open(WriteRaw("{\"a\\n[31m\":null}", ""));
  ASSERT_FALSE(reader.ok());
  EXPECT_EQ(reader.status().message().find('\n'), std::string::npos);
}

}  // namespace
}  // namespace diffmoe
