// The life of a daemon as its users see it: the one way to start it, and the way to end it. Many may want one at once;
// shared/daemon_note.h says by what they agree.
//
// Thread rule: one thread, in a process without others (it forks).
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <vector>

#include "daemon/cli/child_process.h"
#include "daemon/cli/commands.h"
#include "shared/base/result.h"

namespace ikkuna::cli {

struct UpOptions {
  std::string program;   // empty: the one beside this program, else that of the PATH
  std::string data_dir;  // empty: the default, or wherever one that serves already keeps its data
  double linger_seconds = 600;
  std::vector<std::string> daemon_args;
};
void AddUpOptions(CLI::App* command, UpOptions* options);
// With the --data-dir that may stand before the command.
UpOptions OptionsOf(UpOptions options, const Context& context);

struct Served {
  std::string directory;                // of the sockets
  std::string data_directory;           // empty: one that serves another's directory does not say
  std::string log_file;                 // of one that was started here
  pid_t pid = 0;                        // 0: not known
  std::optional<ChildProcess> started;  // by this call; ended with it unless it is let go
};
// A daemon that takes trainers in the default directory: the one that is there, else one that is started. One that is
// about to, or about to end, is waited for. `stop`: signals (blocked) that end the wait; null: none.
Result<Served> BringUp(const UpOptions& options, const sigset_t* stop);

// Ends the daemon of the default directory in order and waits until it is gone. The text says what became of it.
Result<std::string> BringDown(double timeout_seconds);

// Of BringUp: by a signal of `stop`, which ends whoever waits.
bool WasInterrupted(const Error& error);

// "\n  line" for each of the last lines of a log, from `offset` on.
std::string LogTail(const std::string& path, off_t offset);

}  // namespace ikkuna::cli
