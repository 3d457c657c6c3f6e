// What a person can do about the state that a job is in.
#pragma once

#include <string>

#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe::server {

// A command line of the CLI; empty when there is nothing to do.
std::string NextCommand(const v1::Job& job);

// "killed by a signal", for sentences.
std::string CauseInWords(v1::EndCause cause);

}  // namespace diffmoe::server
