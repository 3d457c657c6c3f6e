// Completion of commands and options for shells, made from the command line itself.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace diffmoe {

// One command with what may follow it; the path of the program itself is empty.
struct CompletionWords {
  std::string path;                // "job get"
  std::vector<std::string> words;  // subcommands, then options
};

// A script for bash, zsh or fish that completes `diffmoe`. INVALID_ARGUMENT for another shell.
absl::StatusOr<std::string> CompletionScript(const std::string& shell,
                                             const std::vector<CompletionWords>& commands);

}  // namespace diffmoe
