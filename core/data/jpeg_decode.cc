#include <cstddef>
#include <cstdio>
// jpeglib.h needs the two headers above.
#include <jpeglib.h>

#include <csetjmp>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/data/image_decode.h"

namespace diffmoe {
namespace {

// A progressive file can make a decoder walk over the whole image once per scan; real files have
// about ten.
constexpr int kMaxScans = 200;

struct JpegState {
  jpeg_error_mgr manager;  // first: libjpeg hands back a pointer to it
  jpeg_progress_mgr progress;
  std::jmp_buf jump;
  char error[JMSG_LENGTH_MAX] = "";
  Image image;
};

JpegState* StateOf(j_common_ptr info) { return reinterpret_cast<JpegState*>(info->err); }

[[noreturn]] void Fail(j_common_ptr info, const char* message) {
  JpegState* state = StateOf(info);
  std::strncpy(state->error, message, sizeof(state->error) - 1);
  std::longjmp(state->jump, 1);
}

[[noreturn]] void OnError(j_common_ptr info) {
  char message[JMSG_LENGTH_MAX];
  info->err->format_message(info, message);
  Fail(info, message);
}

// Negative levels are warnings: libjpeg would go on and fill the rest with grey.
void OnMessage(j_common_ptr info, int level) {
  if (level < 0) OnError(info);
}

void OnProgress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
    Fail(info, "too many progressive scans");
  }
}

// No object with a destructor lives here: a jump out of libjpeg skips none.
bool Decode(jpeg_decompress_struct* jpeg, JpegState* state, const char* bytes, size_t size,
            int64_t max_pixels) {
  if (setjmp(state->jump)) return false;
  auto* common = reinterpret_cast<j_common_ptr>(jpeg);
  jpeg_create_decompress(jpeg);
  state->progress.progress_monitor = OnProgress;
  jpeg->progress = &state->progress;
  jpeg_mem_src(jpeg, reinterpret_cast<const unsigned char*>(bytes), size);
  jpeg_read_header(jpeg, TRUE);
  if (jpeg->num_components != 1 && jpeg->num_components != 3) {
    Fail(common, "CMYK and other colour spaces with four components are not supported");
  }
  if (jpeg->image_width > max_pixels / jpeg->image_height) {
    Fail(common, "the image has too many pixels");
  }
  jpeg->out_color_space = jpeg->num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg->dct_method = JDCT_ISLOW;
  jpeg_start_decompress(jpeg);
  state->image.height = static_cast<int>(jpeg->output_height);
  state->image.width = static_cast<int>(jpeg->output_width);
  state->image.channels = jpeg->output_components;
  const size_t row_bytes = static_cast<size_t>(jpeg->output_width) * jpeg->output_components;
  state->image.pixels.resize(row_bytes * jpeg->output_height);
  while (jpeg->output_scanline < jpeg->output_height) {
    JSAMPROW row = state->image.pixels.data() + jpeg->output_scanline * row_bytes;
    jpeg_read_scanlines(jpeg, &row, 1);
  }
  // Reads on to the end marker; its absence is a warning, hence an error.
  jpeg_finish_decompress(jpeg);
  return true;
}

}  // namespace

absl::StatusOr<Image> DecodeJpeg(std::string_view bytes, int64_t max_pixels) {
  JpegState state;
  jpeg_decompress_struct jpeg;
  std::memset(&jpeg, 0, sizeof(jpeg));
  jpeg.err = jpeg_std_error(&state.manager);
  state.manager.error_exit = OnError;
  state.manager.emit_message = OnMessage;
  const bool ok = Decode(&jpeg, &state, bytes.data(), bytes.size(), max_pixels);
  jpeg_destroy_decompress(&jpeg);
  if (!ok) return absl::InvalidArgumentError(absl::StrCat("JPEG: ", state.error));
  return std::move(state.image);
}

}  // namespace diffmoe
