#include "client/completion.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace diffmoe {
namespace {

// The longest known path that the words before the cursor spell, and what may follow it. Words that
// are values of options or arguments are passed over.
std::string BashFunction(const std::vector<CompletionWords>& commands) {
  std::string script =
      "_diffmoe() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} path='' word i\n"
      "  _diffmoe_words() {\n"
      "    case \"$1\" in\n";
  for (const CompletionWords& command : commands) {
    absl::StrAppend(&script, "      '", command.path, "') echo '",
                    absl::StrJoin(command.words, " "), "' ;;\n");
  }
  absl::StrAppend(
      &script,
      "      *) return 1 ;;\n"
      "    esac\n"
      "  }\n"
      "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
      "    word=${COMP_WORDS[i]}\n"
      "    _diffmoe_words \"${path:+$path }$word\" >/dev/null && path=\"${path:+$path }$word\"\n"
      "  done\n"
      "  COMPREPLY=($(compgen -W \"$(_diffmoe_words \"$path\")\" -- \"$current\"))\n"
      "}\n"
      "complete -o default -F _diffmoe diffmoe\n");
  return script;
}

std::string FishScript(const std::vector<CompletionWords>& commands) {
  std::string script =
      "function __diffmoe_path\n"
      "  set -l path ''\n"
      "  for word in (commandline -opc)[2..]\n"
      "    set -l longer (string trim -- \"$path $word\")\n";
  std::vector<std::string> paths;
  for (const CompletionWords& command : commands) {
    if (!command.path.empty()) paths.push_back(absl::StrCat("'", command.path, "'"));
  }
  absl::StrAppend(&script, "    contains -- $longer ", absl::StrJoin(paths, " "),
                  "; and set path $longer\n"
                  "  end\n"
                  "  echo $path\n"
                  "end\n");
  for (const CompletionWords& command : commands) {
    absl::StrAppend(&script, "complete -c diffmoe -n 'test (__diffmoe_path) = \"", command.path,
                    "\"' -a '", absl::StrJoin(command.words, " "), "'\n");
  }
  return script;
}

}  // namespace

absl::StatusOr<std::string> CompletionScript(const std::string& shell,
                                             const std::vector<CompletionWords>& commands) {
  if (shell == "bash") return BashFunction(commands);
  if (shell == "zsh") {
    return absl::StrCat("#compdef diffmoe\nautoload -U +X bashcompinit && bashcompinit\n",
                        BashFunction(commands));
  }
  if (shell == "fish") return FishScript(commands);
  return absl::InvalidArgumentError(absl::StrCat("expected bash, zsh or fish, got ", shell));
}

}  // namespace diffmoe
