#include "core/data/image_fit.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

// The pixel's value in one channel of the result.
uint8_t ChannelOf(const uint8_t* pixel, int have, int64_t want, int64_t channel) {
  if (have == 1) return pixel[0];
  if (want == 3) return pixel[channel];
  return static_cast<uint8_t>((299 * pixel[0] + 587 * pixel[1] + 114 * pixel[2] + 500) / 1000);
}

// Weights of the source pixels that make one output pixel.
struct Taps {
  int64_t first = 0;
  std::vector<float> weights;
};

std::vector<Taps> TriangleTaps(int64_t source, int64_t target) {
  const double scale = static_cast<double>(source) / static_cast<double>(target);
  const double radius = std::max(scale, 1.0);
  std::vector<Taps> all(target);
  for (int64_t i = 0; i < target; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale - 0.5;
    const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(std::ceil(centre - radius)));
    const int64_t last =
        std::min<int64_t>(source - 1, static_cast<int64_t>(std::floor(centre + radius)));
    double sum = 0;
    std::vector<double> weights;
    for (int64_t j = first; j <= last; ++j) {
      weights.push_back(std::max(0.0, 1.0 - std::abs(static_cast<double>(j) - centre) / radius));
      sum += weights.back();
    }
    all[i].first = first;
    for (double weight : weights) all[i].weights.push_back(static_cast<float>(weight / sum));
  }
  return all;
}

void CropAndResize(const Image& image, const ImageFit& fit, absl::Span<uint8_t> planes) {
  const int64_t side = std::min(image.height, image.width);
  const int64_t top = (image.height - side) / 2, left = (image.width - side) / 2;
  const std::vector<Taps> taps = TriangleTaps(side, fit.size);
  std::vector<float> source_row(side);
  std::vector<float> narrow(side * fit.size);  // [side, size]: resized along x
  for (int64_t channel = 0; channel < fit.channels; ++channel) {
    for (int64_t y = 0; y < side; ++y) {
      const uint8_t* row = image.pixels.data() + ((top + y) * image.width + left) * image.channels;
      for (int64_t x = 0; x < side; ++x) {
        source_row[x] = ChannelOf(row + x * image.channels, image.channels, fit.channels, channel);
      }
      for (int64_t x = 0; x < fit.size; ++x) {
        float sum = 0;
        for (size_t k = 0; k < taps[x].weights.size(); ++k) {
          sum += taps[x].weights[k] * source_row[taps[x].first + static_cast<int64_t>(k)];
        }
        narrow[y * fit.size + x] = sum;
      }
    }
    for (int64_t y = 0; y < fit.size; ++y) {
      uint8_t* out = planes.data() + (channel * fit.size + y) * fit.size;
      for (int64_t x = 0; x < fit.size; ++x) {
        float sum = 0;
        for (size_t k = 0; k < taps[y].weights.size(); ++k) {
          sum +=
              taps[y].weights[k] * narrow[(taps[y].first + static_cast<int64_t>(k)) * fit.size + x];
        }
        out[x] = static_cast<uint8_t>(std::clamp(std::lround(sum), 0L, 255L));
      }
    }
  }
}

void Pad(const Image& image, const ImageFit& fit, absl::Span<uint8_t> planes) {
  std::fill(planes.begin(), planes.end(), uint8_t{0});
  const int64_t top = (fit.size - image.height) / 2, left = (fit.size - image.width) / 2;
  for (int64_t channel = 0; channel < fit.channels; ++channel) {
    for (int64_t y = 0; y < image.height; ++y) {
      const uint8_t* row = image.pixels.data() + y * image.width * image.channels;
      uint8_t* out = planes.data() + (channel * fit.size + top + y) * fit.size + left;
      for (int64_t x = 0; x < image.width; ++x) {
        out[x] = ChannelOf(row + x * image.channels, image.channels, fit.channels, channel);
      }
    }
  }
}

}  // namespace

absl::Status FitImage(const Image& image, const ImageFit& fit, absl::Span<uint8_t> planes) {
  if (fit.channels != 1 && fit.channels != 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("images have 1 or 3 channels, model.channels is ", fit.channels));
  }
  if (static_cast<int64_t>(planes.size()) != fit.bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the buffer has ", planes.size(), " bytes, expected ", fit.bytes()));
  }
  if (fit.resize == Resize::kCrop) {
    CropAndResize(image, fit, planes);
    return absl::OkStatus();
  }
  if (image.height > fit.size || image.width > fit.size) {
    return absl::InvalidArgumentError(absl::StrCat("the image is ", image.height, "x", image.width,
                                                   ", too large to pad to ", fit.size, "x",
                                                   fit.size, "; use resize: crop"));
  }
  Pad(image, fit, planes);
  return absl::OkStatus();
}

}  // namespace diffmoe
