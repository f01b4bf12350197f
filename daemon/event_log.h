// EventLog: the sink that writes events to the daemon's log as they happen.
//
// Owner: the daemon's list of sinks. Thread rule: any thread. What waits is bounded here (the newest goes, counted as
// `events_dropped`) and again by the logger (log.h), which says how many lines it left out.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "daemon/model/sink.h"

namespace ikkuna {

// The log is for people: what a peer wrote beyond this is cut, and how much is said.
constexpr size_t kLogTextBytesMax = 4096;
constexpr size_t kLogBatchesMax = 4096;  // the lines that the logger holds

// One line for an event, at its severity, on the caller's thread: for those who cannot wait for the sink, such as the
// daemon's end. What a peer wrote is escaped, so that it stays one line and moves no cursor.
void LogEvent(const Event& event);

// Control characters as \n, \t, \x1b, \u009b; marks that turn or break a line of text likewise; bytes that are no UTF-8
// as \xff; backslashes doubled.
std::string Escaped(std::string_view text);

std::unique_ptr<Sink> MakeEventLog();

}  // namespace ikkuna
