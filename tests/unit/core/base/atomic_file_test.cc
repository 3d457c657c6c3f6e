#include "core/base/atomic_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

namespace fs = std::filesystem;

class AtomicFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = absl::StrCat(::testing::TempDir(), "atomic_", ::getpid());
    fs::remove_all(root_);
    fs::create_directories(root_);
    path_ = root_ + "/file";
  }
  void TearDown() override { fs::remove_all(root_); }
  std::string Contents() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string root_, path_;
};

TEST_F(AtomicFileTest, OldContentsStandUntilCommit) {
  ASSERT_TRUE(WriteFileAtomically(path_, "old").ok());
  auto file = AtomicFile::Create(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Append("new ").ok());
  ASSERT_TRUE((*file)->Append("contents").ok());
  EXPECT_EQ(Contents(), "old");
  ASSERT_TRUE((*file)->Commit().ok());
  EXPECT_EQ(Contents(), "new contents");
  file->reset();
  EXPECT_EQ(Contents(), "new contents");
}

TEST_F(AtomicFileTest, WithoutCommitNothingIsLeft) {
  {
    auto file = AtomicFile::Create(path_);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->Append("x").ok());
  }
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(AtomicFileTest, WhatACrashHasLeftIsRemovedAndNothingElse) {
  for (const char* name : {"file", "file.aB3x9Z", "file.json", "file.toolong1", "other.aB3x9Z"}) {
    std::ofstream(root_ + "/" + name) << "x";
  }
  RemoveUnfinished(root_ + "/file");
  EXPECT_FALSE(fs::exists(root_ + "/file.aB3x9Z"));
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), {}), 4);
}

TEST_F(AtomicFileTest, ErrorsNameTheFile) {
  const absl::Status status = WriteFileAtomically(root_ + "/absent/file", "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("/absent/file"), std::string::npos) << status;
  // A folder stands in the way: the rename fails, and the temporary file goes.
  fs::create_directories(path_);
  EXPECT_FALSE(WriteFileAtomically(path_, "x").ok());
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), {}), 1);
}

TEST_F(AtomicFileTest, AFullDiskIsResourceExhausted) {
  EXPECT_EQ(FileError(ENOSPC, "write", "f").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(FileError(EACCES, "write", "f").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(FileError(EIO, "write", "f").code(), absl::StatusCode::kInternal);
  EXPECT_EQ(std::string(FileError(ENOENT, "open", "f").message()),
            "cannot open f: No such file or directory");
}

}  // namespace
}  // namespace diffmoe
