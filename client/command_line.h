// The command line of `diffmoe` as a whole.
#pragma once

#include <string>
#include <vector>

#include "client/context.h"

namespace CLI {
class App;
}

namespace diffmoe {

// All commands and global options. Parsing arguments with `app` sets context->action.
void AddCommands(CLI::App* app, Context* context);

// Parses the arguments (without the program's name) and runs the command they choose. Returns the
// exit code (core/base/exit_code.h). Errors and usage go to context.err, results and help to
// context.out.
int RunCommandLine(const std::vector<std::string>& arguments, Context* context);

}  // namespace diffmoe
