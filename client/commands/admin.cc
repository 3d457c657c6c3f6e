#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/output/progress.h"
#include "client/output/text.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

struct RestoreOptions {
  std::string backup;
  std::string data_dir;
};

absl::StatusOr<int> BackUp(const Context& context, const std::string& directory) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(directory, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("directory ", directory));
  v1::BackUpStoreRequest request;
  request.set_directory(absolute.lexically_normal().string());
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  const absl::StatusOr<v1::BackUpStoreResponse> response = client.BackUpStore(request, &interrupt);
  if (!response.ok() && interrupt.triggered()) {
    context.err << "Interrupted; the coordinator may still complete "
                << CleanText(request.directory()) << ".\n"
                << std::flush;
    return kExitInterrupted;
  }
  RETURN_IF_ERROR(response.status());
  return context.PrintMessage(*response, [&] {
    return absl::StrCat("wrote ", CleanText(request.directory()), ": ", response->jobs(), " jobs, ",
                        response->checkpoints(), " checkpoints, ", BytesText(response->bytes()),
                        ", up to commit ", response->commit(), "\n");
  });
}

absl::StatusOr<int> Verify(const Context& context) {
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  ProgressPrinter printer(&context.err, &context.clock, context.progress);
  v1::VerifyStoreResponse result;  // with all damage
  const absl::Status status =
      client.VerifyStore(v1::VerifyStoreRequest(), &interrupt, [&](const auto& message) {
        for (const std::string& damage : message.damage()) {
          result.add_damage(damage);
          printer.Print(absl::StrCat("damaged: ", CleanText(damage)));
        }
        result.set_bytes(message.bytes());
        result.set_total_bytes(message.total_bytes());
        result.set_finished(message.finished());
        const double total = static_cast<double>(message.total_bytes());
        printer.Set(absl::StrCat(
            BarText(total > 0 ? static_cast<double>(message.bytes()) / total : 1, 20), "  ",
            BytesText(message.bytes()), " of ", BytesText(message.total_bytes())));
        return absl::OkStatus();
      });
  printer.Finish();
  if (!status.ok() && interrupt.triggered()) {
    context.err << "Interrupted; not everything was verified.\n" << std::flush;
    return kExitInterrupted;
  }
  RETURN_IF_ERROR(status);
  if (!result.finished())
    return absl::UnavailableError("the coordinator ended before everything was verified");
  RETURN_IF_ERROR(context
                      .PrintMessage(result,
                                    [&] {
                                      return absl::StrCat("verified ", BytesText(result.bytes()),
                                                          ": ", result.damage_size(), " damaged\n");
                                    })
                      .status());
  return result.damage_size() == 0 ? kExitOk : kExitCorrupt;
}

// The coordinator's program does the work; this process becomes it.
absl::StatusOr<int> Restore(const Context& context, const RestoreOptions& options) {
  const std::string program =
      (std::filesystem::path(context.executable).parent_path() / "diffmoe-coordinator").string();
  std::vector<std::string> arguments = {program, "--data-dir", options.data_dir, "--restore-from",
                                        options.backup};
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  context.out << std::flush;
  execv(program.c_str(), pointers.data());
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot run ", program));
}

}  // namespace

void AddAdminCommand(CLI::App* app, Context* context) {
  CLI::App* command =
      app->add_subcommand("admin", "Back up, verify and restore all records and checkpoints");
  command->require_subcommand(1);

  auto directory = std::make_shared<std::string>();
  CLI::App* backup = command->add_subcommand(
      "backup", "Write a consistent copy of everything while the coordinator runs");
  backup
      ->add_option("DIR", *directory,
                   "A new directory on the coordinator's machine; on the file system of its data, "
                   "files are linked, else copied")
      ->required();
  backup->callback([context, directory] {
    context->action = [context, directory] { return BackUp(*context, *directory); };
  });

  CLI::App* verify = command->add_subcommand(
      "verify",
      "Read every byte of records and checkpoints against its checksum; exit code 20 "
      "when something is damaged");
  verify->callback([context] { context->action = [context] { return Verify(*context); }; });

  auto options = std::make_shared<RestoreOptions>();
  CLI::App* restore = command->add_subcommand(
      "restore", "Make a coordinator's data directory of a backup and verify every byte of it");
  restore->add_option("BACKUP", options->backup, "A directory that `admin backup` has written")
      ->required();
  restore
      ->add_option("DATA_DIR", options->data_dir,
                   "A new directory for `diffmoe-coordinator --data-dir`; for `diffmoe up` it is "
                   "the folder coordinator of its data directory")
      ->required();
  restore->callback([context, options] {
    context->action = [context, options] { return Restore(*context, *options); };
  });
}

}  // namespace diffmoe
