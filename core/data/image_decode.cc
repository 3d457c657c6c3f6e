#include "core/data/image_decode.h"

namespace diffmoe {

absl::StatusOr<Image> DecodeImage(std::string_view bytes, int64_t max_pixels) {
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return DecodePng(bytes, max_pixels);
  if (bytes.starts_with("\xff\xd8")) return DecodeJpeg(bytes, max_pixels);
  if (bytes.empty()) return absl::InvalidArgumentError("the file is empty");
  return absl::InvalidArgumentError("neither a PNG nor a JPEG file");
}

}  // namespace diffmoe
