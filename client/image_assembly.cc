#include "client/image_assembly.h"

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

constexpr int kMaxSide = 4096;
constexpr int kMaxChannels = 16;

std::string SizeOf(const v1::SampleResponse::Image& image) {
  return absl::StrCat(image.height(), "x", image.width(), "x", image.channels());
}

// A PNG that can't be compressed is a little longer than its pixels.
int64_t MostBytes(const v1::SampleResponse::Image& image, int64_t pixels) {
  return image.encoding() == v1::PNG ? pixels + pixels / 8 + image.height() + 4096 : pixels;
}

v1::ImageEncoding EncodingOf(const v1::SampleResponse::Image& image) {
  return image.encoding() == v1::IMAGE_ENCODING_UNSPECIFIED ? v1::RAW : image.encoding();
}

}  // namespace

absl::Status ImageAssembly::Fault(const v1::SampleResponse::Image& part,
                                  const std::string& what) const {
  return absl::DataLossError(absl::StrCat("image ", part.index(), " from the coordinator: ", what));
}

absl::Status ImageAssembly::CheckFirst(const v1::SampleResponse::Image& part) const {
  const bool sizes_fit = part.height() > 0 && part.height() <= kMaxSide && part.width() > 0 &&
                         part.width() <= kMaxSide && part.channels() > 0 &&
                         part.channels() <= kMaxChannels;
  if (!sizes_fit) {
    return Fault(part, absl::StrCat("expected sides from 1 to ", kMaxSide, " and 1 to ",
                                    kMaxChannels, " channels, got ", SizeOf(part)));
  }
  const int64_t pixels = int64_t{part.height()} * part.width() * part.channels();
  const int64_t total =
      part.total_bytes() == 0 ? static_cast<int64_t>(part.pixels().size()) : part.total_bytes();
  const bool raw = EncodingOf(part) == v1::RAW;
  if (total < 1 || total > MostBytes(part, pixels) || (raw && total != pixels)) {
    return Fault(part, absl::StrCat("expected ", raw ? "" : "at most ", MostBytes(part, pixels),
                                    " bytes for ", SizeOf(part), ", got ", total, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status ImageAssembly::Add(const v1::SampleResponse::Image& part) {
  if (complete_) return Fault(part, "expected it once, got it again");
  if (!started_) {
    if (absl::Status fits = CheckFirst(part); !fits.ok()) return fits;
    first_ = part;
    first_.clear_pixels();
    first_.set_encoding(EncodingOf(part));
    total_bytes_ =
        part.total_bytes() == 0 ? static_cast<int64_t>(part.pixels().size()) : part.total_bytes();
  }
  const auto have = static_cast<int64_t>(bytes_.size());
  if (part.offset() != have) {
    return Fault(part, absl::StrCat("expected offset ", have, ", got ", part.offset()));
  }
  if (started_ && (SizeOf(part) != SizeText() || EncodingOf(part) != first_.encoding() ||
                   part.label() != first_.label() || part.total_bytes() != total_bytes_)) {
    return Fault(part,
                 absl::StrCat("expected more of ", SizeText(), " in ", total_bytes_,
                              " bytes, got a part of ", SizeOf(part), " in ", part.total_bytes()));
  }
  const auto added = static_cast<int64_t>(part.pixels().size());
  if (added == 0 || added > total_bytes_ - have) {
    return Fault(part, absl::StrCat("expected 1 to ", total_bytes_ - have, " bytes at offset ",
                                    have, ", got ", added));
  }
  started_ = true;
  bytes_.append(part.pixels());
  complete_ = static_cast<int64_t>(bytes_.size()) == total_bytes_;
  return absl::OkStatus();
}

std::string ImageAssembly::SizeText() const { return SizeOf(first_); }

}  // namespace diffmoe
