#include "core/data/image_dataset.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/unit/core/data/image_files.h"

namespace diffmoe {
namespace {

namespace fs = std::filesystem;

class ImageDatasetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = absl::StrCat(::testing::TempDir(), "dataset_", ::getpid(), "_",
                         ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(root_);
    fs::create_directories(root_);
    data_.path = root_;
    model_.image_size = 8;
    model_.channels = 1;
    model_.classes = 3;
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& bytes) {
    const fs::path path = fs::path(root_) / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
  }
  void WriteGz(const std::string& name, const std::string& bytes) {
    gzFile file = gzopen(absl::StrCat(root_, "/", name).c_str(), "wb");
    ASSERT_EQ(gzwrite(file, bytes.data(), bytes.size()), static_cast<int>(bytes.size()));
    ASSERT_EQ(gzclose(file), Z_OK);
  }
  // A flat grey PNG of 8x8 pixels.
  static std::string Flat(uint8_t value) {
    return MakePng({.colour_type = 0}, std::vector<uint8_t>(64, value));
  }
  absl::StatusOr<std::unique_ptr<ImageDataset>> Open(const DatasetLimits& limits = {}) {
    return ImageDataset::Open(data_, model_, limits);
  }
  void ExpectError(absl::StatusCode code, const std::string& words,
                   const DatasetLimits& limits = {}) {
    auto dataset = Open(limits);
    ASSERT_FALSE(dataset.ok());
    EXPECT_EQ(dataset.status().code(), code) << dataset.status();
    EXPECT_NE(std::string(dataset.status().message()).find(words), std::string::npos)
        << dataset.status();
  }

  std::string root_;
  DataConfig data_;
  ModelConfig model_;
};

std::string BigEndian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16),
          static_cast<char>(value >> 8), static_cast<char>(value)};
}
std::string IdxImages(uint32_t count, uint32_t height, uint32_t width, const std::string& pixels) {
  return absl::StrCat(BigEndian(0x803), BigEndian(count), BigEndian(height), BigEndian(width),
                      pixels);
}
std::string IdxLabels(uint32_t count, const std::string& labels) {
  return absl::StrCat(BigEndian(0x801), BigEndian(count), labels);
}

class IdxDatasetTest : public ImageDatasetTest {
 protected:
  void SetUp() override {
    ImageDatasetTest::SetUp();
    model_.image_size = 2;
  }
  const std::string images_ = IdxImages(3, 2, 2, std::string("\x00\x33\xff\x80zzzz1234", 12));
  const std::string labels_ = IdxLabels(3, std::string("\x02\x00\x01", 3));
};

TEST_F(IdxDatasetTest, PlainAndGzipped) {
  for (bool gzip : {false, true}) {
    if (gzip) {
      fs::remove(root_ + "/train-images-idx3-ubyte");
      fs::remove(root_ + "/train-labels-idx1-ubyte");
      WriteGz("train-images-idx3-ubyte.gz", images_);
      WriteGz("train-labels-idx1-ubyte.gz", labels_);
    } else {
      Write("train-images-idx3-ubyte", images_);
      Write("train-labels-idx1-ubyte", labels_);
    }
    auto dataset = Open();
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    EXPECT_EQ((*dataset)->size(), 3);
    EXPECT_EQ((*dataset)->classes(), 3);
    EXPECT_TRUE((*dataset)->bad_files().empty());
    std::vector<float> values(4);
    int label = -1;
    ASSERT_TRUE((*dataset)->Read(0, absl::MakeSpan(values), &label).ok());
    EXPECT_EQ(label, 2);
    EXPECT_EQ((*dataset)->label(1), 0);
    EXPECT_FLOAT_EQ(values[0], -1.0f);
    EXPECT_FLOAT_EQ(values[1], -0.6f);
    EXPECT_FLOAT_EQ(values[2], 1.0f);
    EXPECT_EQ((*dataset)->Read(3, absl::MakeSpan(values), &label).code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ((*dataset)->Read(-1, absl::MakeSpan(values), &label).code(),
              absl::StatusCode::kInvalidArgument);
    values.resize(5);
    EXPECT_EQ((*dataset)->Read(0, absl::MakeSpan(values), &label).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(IdxDatasetTest, EveryTruncationNamesTheFile) {
  Write("train-labels-idx1-ubyte", labels_);
  for (size_t kept = 0; kept < images_.size(); ++kept) {
    Write("train-images-idx3-ubyte", images_.substr(0, kept));
    ExpectError(absl::StatusCode::kDataLoss, "train-images-idx3-ubyte");
  }
  Write("train-images-idx3-ubyte", images_ + "x");
  ExpectError(absl::StatusCode::kDataLoss, "more bytes than its header says");
  Write("train-images-idx3-ubyte", images_);
  for (size_t kept = 0; kept < labels_.size(); ++kept) {
    Write("train-labels-idx1-ubyte", labels_.substr(0, kept));
    ExpectError(absl::StatusCode::kDataLoss, "train-labels-idx1-ubyte");
  }
}

TEST_F(IdxDatasetTest, EveryTruncationOfGzipIsFound) {
  Write("train-labels-idx1-ubyte", labels_);
  WriteGz("whole.gz", images_);
  std::ifstream file(root_ + "/whole.gz", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  for (size_t kept = 0; kept < bytes.size(); ++kept) {
    Write("train-images-idx3-ubyte.gz", bytes.substr(0, kept));
    ExpectError(absl::StatusCode::kDataLoss, "train-images-idx3-ubyte.gz");
  }
  std::string damaged = bytes;
  damaged[damaged.size() - 5] = static_cast<char>(damaged[damaged.size() - 5] ^ 1);  // the CRC
  Write("train-images-idx3-ubyte.gz", damaged);
  ExpectError(absl::StatusCode::kDataLoss, "is damaged");
}

TEST_F(IdxDatasetTest, WrongContents) {
  Write("train-images-idx3-ubyte", images_);
  Write("train-labels-idx1-ubyte", IdxLabels(2, std::string("\x02\x00", 2)));
  ExpectError(absl::StatusCode::kInvalidArgument, "3 images");
  Write("train-labels-idx1-ubyte", IdxLabels(3, std::string("\x02\x03\x01", 3)));
  ExpectError(absl::StatusCode::kInvalidArgument, "label 3 of image 1 is out of range");
  Write("train-labels-idx1-ubyte", images_);
  ExpectError(absl::StatusCode::kDataLoss, "magic number 0x00000803, expected 0x00000801");
  Write("train-labels-idx1-ubyte", labels_);
  Write("train-images-idx3-ubyte", IdxImages(3, 0, 2, ""));
  ExpectError(absl::StatusCode::kDataLoss, "images of 0x2");
  Write("train-images-idx3-ubyte", IdxImages(3, 0xFFFFFFFF, 0xFFFFFFFF, ""));
  ExpectError(absl::StatusCode::kDataLoss, "train-images-idx3-ubyte");
  Write("train-images-idx3-ubyte", IdxImages(0xFFFFFFFF, 2, 2, ""));
  Write("train-labels-idx1-ubyte", IdxLabels(0xFFFFFFFF, ""));
  ExpectError(absl::StatusCode::kResourceExhausted, "train-images-idx3-ubyte");
  Write("train-images-idx3-ubyte", IdxImages(0, 2, 2, ""));
  Write("train-labels-idx1-ubyte", IdxLabels(0, ""));
  ExpectError(absl::StatusCode::kInvalidArgument, "holds no images");
}

TEST_F(IdxDatasetTest, MissingAndStrangeFiles) {
  ExpectError(absl::StatusCode::kNotFound, root_ + "/train-images-idx3-ubyte");
  data_.path = root_ + "/absent";
  ExpectError(absl::StatusCode::kNotFound, root_ + "/absent");
  Write("plain", "x");
  data_.path = root_ + "/plain";
  ExpectError(absl::StatusCode::kInvalidArgument, "is not a directory");
  data_.path = root_;
  ASSERT_EQ(::mkfifo((root_ + "/train-images-idx3-ubyte").c_str(), 0600), 0);
  ExpectError(absl::StatusCode::kInvalidArgument, "not a regular file");
  data_.split = "../train";
  ExpectError(absl::StatusCode::kInvalidArgument, "data.split");
  model_.channels = 4;
  ExpectError(absl::StatusCode::kInvalidArgument, "model.channels is 4");
}

TEST_F(ImageDatasetTest, FolderOrderLabelsAndContents) {
  data_.format = DataFormat::kFolder;
  Write("b/2.png", Flat(20));
  Write("b/1.PNG", Flat(10));
  Write("a/x.jpeg",
        MakeJpeg({.width = 8, .height = 8, .components = 1}, std::vector<uint8_t>(64, 50)));
  Write("a/notes.txt", "not an image");
  Write("a/.hidden.png", "not an image");
  Write(".git/x.png", "not an image");
  Write("README.md", "not a class");
  fs::create_directories(root_ + "/c");
  auto dataset = Open();
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ((*dataset)->size(), 3);
  EXPECT_EQ((*dataset)->classes(), 3);
  EXPECT_TRUE((*dataset)->bad_files().empty());
  const int labels[] = {0, 1, 1};
  const float values[] = {50, 10, 20};
  std::vector<float> planes(64);
  for (int i = 0; i < 3; ++i) {
    int label = -1;
    ASSERT_TRUE((*dataset)->Read(i, absl::MakeSpan(planes), &label).ok());
    EXPECT_EQ(label, labels[i]);
    EXPECT_NEAR(planes[0], values[i] / 127.5f - 1, 0.01);
  }
}

TEST_F(ImageDatasetTest, BrokenFilesAreNamedSkippedAndLimited) {
  data_.format = DataFormat::kFolder;
  const std::string jpeg = MakeJpeg({}, Gradient(16, 16, 3));
  Write("a/0.png", Flat(1));
  Write("a/1.jpg", jpeg.substr(0, jpeg.size() / 2));
  Write("a/2.png", "");
  Write("a/3.png", Flat(4));
  Write("b/4.png", "GIF89a");
  Write("b/5.png", Flat(6));
  data_.max_bad_files = 3;
  auto dataset = Open();
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ((*dataset)->size(), 3);
  ASSERT_EQ((*dataset)->bad_files().size(), 3u);
  EXPECT_EQ(fs::path((*dataset)->bad_files()[0].path).filename(), "1.jpg");
  EXPECT_NE((*dataset)->bad_files()[0].reason.find("JPEG"), std::string::npos);
  EXPECT_EQ(fs::path((*dataset)->bad_files()[2].path).filename(), "4.png");
  EXPECT_EQ((*dataset)->label(2), 1);
  data_.max_bad_files = 2;
  ExpectError(absl::StatusCode::kInvalidArgument, "3 files are broken, data.max_bad_files is 2");
  ExpectError(absl::StatusCode::kInvalidArgument, "4.png");
}

TEST_F(ImageDatasetTest, LinksFifosDevicesAndLargeFiles) {
  data_.format = DataFormat::kFolder;
  Write("a/good.png", Flat(1));
  Write("outside/secret.png", Flat(2));
  fs::rename(root_ + "/outside", root_ + "_outside");
  fs::create_symlink("good.png", root_ + "/a/inside.png");
  fs::create_symlink(root_ + "_outside/secret.png", root_ + "/a/link.png");
  fs::create_symlink("/dev/zero", root_ + "/a/zero.png");
  fs::create_symlink("nowhere.png", root_ + "/a/dangling.png");
  ASSERT_EQ(::mkfifo((root_ + "/a/fifo.png").c_str(), 0600), 0);
  fs::create_directories(root_ + "/a/folder.png");
  Write("a/large.png", std::string(5000, 'x'));
  Write("a/wide.png", MakePng({.width = 100, .height = 100, .colour_type = 0, .depth = 1},
                              std::vector<uint8_t>(13 * 100, 0)));
  auto dataset = Open({.image_pixels = 9999, .file_bytes = 4999});
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ((*dataset)->size(), 2);  // good.png and the link to it
  std::vector<std::string> named;
  for (const BadFile& bad : (*dataset)->bad_files()) {
    named.push_back(fs::path(bad.path).filename().string());
  }
  EXPECT_EQ(named, (std::vector<std::string>{"dangling.png", "fifo.png", "folder.png", "large.png",
                                             "link.png", "wide.png", "zero.png"}));
  fs::create_directory_symlink(root_ + "_outside", root_ + "/b");
  ExpectError(absl::StatusCode::kPermissionDenied, "leads out of the data folder");
  fs::remove_all(root_ + "_outside");
}

TEST_F(ImageDatasetTest, TooManyClassesOrNoImages) {
  data_.format = DataFormat::kFolder;
  ExpectError(absl::StatusCode::kInvalidArgument, "holds no images");
  for (const char* name : {"a/1.png", "b/1.png", "c/1.png", "d/1.png"}) Write(name, Flat(1));
  ExpectError(absl::StatusCode::kInvalidArgument, "4 class folders, model.classes is 3");
}

TEST_F(ImageDatasetTest, OnDemandGivesTheSameImages) {
  data_.format = DataFormat::kFolder;
  model_.channels = 3;
  for (int i = 0; i < 6; ++i) {
    Write(absl::StrCat("c", i % 2, "/", i, ".png"),
          i == 3 ? "broken" : MakePng({.width = 12, .height = 9}, Gradient(9, 12, 3)));
  }
  auto kept = Open();
  auto on_demand = Open({.memory_bytes = 5 * 3 * 64});
  ASSERT_TRUE(kept.ok() && on_demand.ok()) << kept.status() << on_demand.status();
  ASSERT_EQ((*kept)->size(), 5);
  ASSERT_EQ((*on_demand)->size(), 5);
  std::vector<float> a(3 * 64), b(3 * 64);
  for (int64_t i = 0; i < 5; ++i) {
    int label_a = -1, label_b = -1;
    ASSERT_TRUE((*kept)->Read(i, absl::MakeSpan(a), &label_a).ok());
    ASSERT_TRUE((*on_demand)->Read(i, absl::MakeSpan(b), &label_b).ok());
    EXPECT_EQ(a, b);
    EXPECT_EQ(label_a, label_b);
  }
  // In memory nothing can change; on demand a file that breaks later is an error that names it.
  Write("c0/0.png", "broken");
  int label = -1;
  EXPECT_TRUE((*kept)->Read(0, absl::MakeSpan(a), &label).ok());
  const absl::Status status = (*on_demand)->Read(0, absl::MakeSpan(b), &label);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("c0/0.png"), std::string::npos) << status;
}

TEST(FlipTest, MirrorsEachRowAndIsItsOwnInverse) {
  std::vector<float> planes = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const std::vector<float> original = planes;
  FlipHorizontal(2, 2, 3, absl::MakeSpan(planes));
  EXPECT_EQ(planes, (std::vector<float>{3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10}));
  FlipHorizontal(2, 2, 3, absl::MakeSpan(planes));
  EXPECT_EQ(planes, original);
}

TEST(FashionMnistTest, TestSplitHasAThousandOfEachClass) {
  const std::string path = "/usr/share/datasets/fashion-mnist";
  if (!fs::exists(path)) GTEST_SKIP() << path << " is not installed";
  DataConfig data;
  data.path = path;
  data.split = "t10k";
  data.resize = Resize::kPad;
  ModelConfig model;
  auto dataset = ImageDataset::Open(data, model);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  ASSERT_EQ((*dataset)->size(), 10000);
  EXPECT_EQ((*dataset)->classes(), 10);
  std::vector<int> counts(10);
  std::vector<float> planes(32 * 32);
  double sum = 0;
  for (int64_t i = 0; i < 10000; ++i) {
    int label = -1;
    ASSERT_TRUE((*dataset)->Read(i, absl::MakeSpan(planes), &label).ok());
    ++counts[label];
    for (int border : {0, 31, 32 * 31, 32 * 32 - 1, 33}) ASSERT_EQ(planes[border], -1.0f);
    for (float value : planes) sum += value;
  }
  EXPECT_EQ(counts, std::vector<int>(10, 1000));
  // The published mean of the 28x28 test images is 0.2868 in [0, 1]; padding spreads it over 32x32.
  EXPECT_NEAR((sum / (10000.0 * 1024) + 1) / 2, 0.2868 * 784 / 1024, 0.001);
}

}  // namespace
}  // namespace diffmoe
