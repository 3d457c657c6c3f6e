// The subcommands, one file each. Every function adds its subcommand to `app`; parsing arguments
// that choose it sets `context->action`. `context` must outlive the action.
#pragma once

#include "CLI/App.hpp"
#include "client/context.h"

namespace diffmoe {

void AddUpCommand(CLI::App* app, Context* context);
void AddSubmitCommand(CLI::App* app, Context* context);
void AddJobsCommand(CLI::App* app, Context* context);
void AddJobCommand(CLI::App* app, Context* context);
void AddForkCommand(CLI::App* job, Context* context);  // `job fork`
void AddWatchCommand(CLI::App* app, Context* context);
void AddLogsCommand(CLI::App* app, Context* context);
void AddMetricsCommand(CLI::App* app, Context* context);
void AddCheckpointCommand(CLI::App* app, Context* context);
void AddCheckpointChanges(CLI::App* ckpt, Context* context);  // `ckpt pin|unpin|rm|verify`
void AddExportCommand(CLI::App* ckpt, Context* context);      // `ckpt export`
void AddSampleCommand(CLI::App* app, Context* context);
void AddReplayCommand(CLI::App* app, Context* context);
void AddCalibrateCommand(CLI::App* app, Context* context);
void AddSampleSetCommand(CLI::App* app, Context* context);
void AddBenchCommand(CLI::App* app, Context* context);
void AddReportCommand(CLI::App* app, Context* context);
void AddTopCommand(CLI::App* app, Context* context);
void AddCompletionCommand(CLI::App* app, Context* context);
void AddWorkersCommand(CLI::App* app, Context* context);
void AddExplainCommand(CLI::App* app, Context* context);
void AddAdminCommand(CLI::App* app, Context* context);
void AddVersionCommand(CLI::App* app, Context* context);

}  // namespace diffmoe
