// The daemon's log against a reader that does not read.
#include "daemon/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

#include "shared/base/unique_fd.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna {
namespace {

struct Pipe {
  Pipe() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
    EXPECT_GE(::fcntl(ends[1], F_SETPIPE_SZ, 4096), 0);
  }
  UniqueFd read_end, write_end;
};

TEST(Log, ALineThatNobodyTakesHoldsNobodyAndIsCounted) {
  Pipe pipe;
  std::optional<Log> log(std::in_place, "info", pipe.write_end.get());
  constexpr size_t kLines = 3 * Log::kLinesMax;
  for (size_t i = 0; i < kLines; ++i) spdlog::info("line {}", i);
  std::string text;
  std::atomic<bool> came{false};
  std::thread reader([&] {
    char bytes[4096];
    for (ssize_t got; (got = ::read(pipe.read_end.get(), bytes, sizeof bytes)) > 0;) {
      text.append(bytes, static_cast<size_t>(got));
      if (text.find("the last one\n") != std::string::npos) came = true;
    }
  });
  spdlog::warn("the last one");
  EXPECT_TRUE(ingest::Eventually([&] { return came.load(); }));
  log.reset();
  pipe.write_end.reset();
  reader.join();
  size_t lines = 0, dropped = 0, next = 0;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    const size_t message = line.find(' ', line.find(' ') + 1) + 1;
    if (const size_t at = line.find(" lines of this log were dropped"); at != std::string::npos) {
      dropped += std::stoul(line.substr(message));
    } else if (line.compare(message, 5, "line ") == 0) {
      const size_t number = std::stoul(line.substr(message + 5));
      EXPECT_GE(number, next);
      next = number + 1;
      ++lines;
    }
  }
  EXPECT_GT(dropped, 0u);
  EXPECT_EQ(lines + dropped, kLines) << text.substr(0, 500);
}

// As long as one daemon lives.
TEST(Log, ItsOwnFileBeginsAnewWhenItIsLarge) {
  ingest::TempDirectory folder;
  const std::string path = folder.sub("daemon.log");
  constexpr off_t kMost = 2'000;
  const auto read = [](const std::string& name) {
    std::ifstream file(name);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  for (const bool own : {true, false}) {
    SCOPED_TRACE(own);
    std::filesystem::remove(path + ".1");
    std::filesystem::remove(path);
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    {
      // A file that somebody else made for it stays theirs.
      Log log("info", fd.get(), {own ? path : folder.sub("other.log"), kMost});
      for (int i = 0; i < 100; ++i) spdlog::info("line {}", i);
    }
    const std::string now = read(path), before = read(path + ".1");
    EXPECT_NE(now.find("line 99\n"), std::string::npos);
    if (!own) {
      EXPECT_NE(now.find("line 0\n"), std::string::npos);
      EXPECT_FALSE(std::filesystem::exists(path + ".1"));
      continue;
    }
    EXPECT_LE(now.size(), static_cast<size_t>(kMost) + 100);
    EXPECT_GT(before.size(), static_cast<size_t>(kMost));
    EXPECT_LE(before.size(), static_cast<size_t>(kMost) + 100);
    // No line is lost between the two.
    const size_t first = now.find("line ") + 5, last = before.rfind("line ") + 5;
    EXPECT_EQ(std::stoi(now.substr(first)), std::stoi(before.substr(last)) + 1);
  }
}

TEST(Log, EndsAlthoughNobodyReads) {
  Pipe pipe;
  {
    Log log("info", pipe.write_end.get());
    for (size_t i = 0; i < 2 * Log::kLinesMax; ++i) spdlog::info("line {}", i);
  }
  spdlog::info("to the logger that was there before");
}

TEST(Log, KeepsWhatItWasToldUntilItsEnd) {
  Pipe pipe;
  {
    Log log("warn", pipe.write_end.get());
    spdlog::info("not at this level");
    spdlog::warn("{}", std::string(3000, 'x'));
  }
  pipe.write_end.reset();
  std::string text(8192, '\0');
  const ssize_t got = ::read(pipe.read_end.get(), text.data(), text.size());
  ASSERT_GT(got, 0);
  text.resize(static_cast<size_t>(got));
  EXPECT_NE(text.find("warning " + std::string(3000, 'x') + "\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("not at this level"), std::string::npos);
}

}  // namespace
}  // namespace ikkuna
