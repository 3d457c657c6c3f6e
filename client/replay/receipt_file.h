// Receipts as files, and the requests that make their images again.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe {

// Reads a receipt in protobuf's JSON, as `diffmoe sample --receipt` writes it; "-" is standard
// input. Errors: those of reading; INVALID_ARGUMENT with the file and the field for anything that
// no finished request can have (CheckReceipt).
absl::StatusOr<v1::Receipt> ReadReceipt(const std::string& path);

// `file` stands in the errors.
absl::StatusOr<v1::Receipt> ParseReceipt(const std::string& text, const std::string& file);

// Whether the receipt holds all that a request needs, and one hash per image.
absl::Status CheckReceipt(const v1::Receipt& receipt, const std::string& file);

// The request that the receipt belongs to, without a request id; pixels raw.
v1::SampleRequest RequestOfReceipt(const v1::Receipt& receipt);

}  // namespace diffmoe
