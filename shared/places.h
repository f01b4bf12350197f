// Where things are kept, unless told otherwise. The directory of the sockets: shared/handshake.h.
//
// Thread rule: none, no state; they read the environment, which nobody may be changing.
#pragma once

#include <string>

#include "shared/base/result.h"

namespace ikkuna {

// Of runs: $IKKUNA_DATA, else $XDG_DATA_HOME/ikkuna, else ~/.local/share/ikkuna; always absolute. An error where there
// is no home.
Result<std::string> DefaultDataDirectory();
// `directory` itself, or the default where it is empty; absolute.
Result<std::string> DataDirectory(const std::string& directory);

// $IKKUNA_HOST, else this machine's name, as part of a path: letters, digits, '.', '_' and '-'. Never empty, never "." or
// "..". A container gets another name each time that it is made: its runs stay its own where it is given one.
std::string HostName();
// "<data_directory>/hosts/<host>": what the daemon of one host keeps beside runs (its log, what clients subscribed,
// counters). A home that several hosts share has one for each.
std::string HostDirectory(const std::string& data_directory);

// The log there of a daemon that 'ikkuna up' started. Above kDaemonLogBytesMax a new one begins, and the last stays as .1.
std::string DaemonLog(const std::string& host_directory);
inline constexpr long kDaemonLogBytesMax = 16 << 20;

// Creates the directory and what is missing above it, for nobody else to read. Errors name the path and what was
// wrong with it.
Status MakePrivateDirectories(const std::string& directory);

}  // namespace ikkuna
