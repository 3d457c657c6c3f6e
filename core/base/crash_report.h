// Last words of a process that crashes: on SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT one line on
// standard error that says who died of what, after which step and in the middle of what; then the
// signal takes its course.
#pragma once

#include <string>

#include "core/base/activity.h"

namespace diffmoe {

// Installs the handlers, for the life of the process. name: "rank 1 of job-3 epoch 2". `activity`
// may be null or must live until ForgetActivity. Call it from the main thread, again to change the
// arguments; the main thread's handlers run on a stack of their own, so that a stack overflow is
// reported as well.
void InstallCrashReport(const std::string& name, const Activity* activity);
// From now on a crash names no activity.
void ForgetActivity();

}  // namespace diffmoe
