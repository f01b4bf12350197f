// How `ikkuna` finds a daemon, and what it says when something is wrong.
#include <grpc/grpc.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <regex>
#include <set>

#include "daemon/cli/client.h"
#include "shared/base/unique_fd.h"
#include "tests/daemon/cli/recorded_fixture.h"
#include "tests/daemon/service/test_certificate.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kToken = "0123456789abcdef0123456789abcdef";
const char* const kCommands[] = {"status",  "runs",   "series",   "modules", "table",     "top",         "watch",
                                 "plot",    "read",   "texts",    "export",  "import",    "histogram",   "why",
                                 "tag",     "delete", "publish",  "events",  "subscribe", "unsubscribe", "subscribers",
                                 "metrics", "freeze", "unfreeze", "stop",    "run",      "up",        "down"};

class ConnectionTest : public CliTest {};

// Or the end of `ikkuna` waits for a poller that sleeps, after something was still to be sent.
TEST(ClientTest, GrpcIsNotGivenBackByTheLastThatUsesIt) {
  cli::ConnectionOptions options;
  options.address = "/nowhere/grpc.sock";
  EXPECT_FALSE(cli::Client::Connect(options).ok());
  EXPECT_NE(grpc_is_initialized(), 0);
}

TEST_F(ConnectionTest, NoDaemonIsSaidWithWhatToDo) {
  Outcome outcome = Run({"status"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, "ikkuna: no ikkuna-daemon answers at unix:" + dir_.path() +
                             "/grpc.sock; start one with 'ikkuna up' or pass --address\n");
}

TEST_F(ConnectionTest, EveryCommandSaysItAlike) {
  const std::string file = dir_.Write("file", "x");
  const std::vector<std::vector<std::string>> commands = {{"runs"},
                                                          {"series"},
                                                          {"modules"},
                                                          {"table"},
                                                          {"top", "--once"},
                                                          {"watch"},
                                                          {"events"},
                                                          {"plot", "l"},
                                                          {"read", "l"},
                                                          {"texts"},
                                                          {"histogram"},
                                                          {"why"},
                                                          {"metrics"},
                                                          {"subscribe", "l"},
                                                          {"unsubscribe", "l"},
                                                          {"subscribers"},
                                                          {"freeze", "m"},
                                                          {"unfreeze", "m"},
                                                          {"stop"},
                                                          {"export", "r"},
                                                          {"import", file},
                                                          {"tag", "r", "+x"},
                                                          {"delete", "r", "--yes"},
                                                          {"publish", "t", "1", "--step", "1"}};
  for (const auto& command : commands) {
    Outcome outcome = Run(command);
    EXPECT_EQ(outcome.code, 3) << command[0];
    EXPECT_THAT(outcome.err, HasSubstr("no ikkuna-daemon answers")) << command[0];
  }
}

TEST_F(ConnectionTest, AddressesAreTakenInEachForm) {
  StartDaemon();
  environment_["IKKUNA_DIR"] = dir_.path() + "/elsewhere";
  std::string path = socket_path();
  EXPECT_EQ(Run({"runs"}).code, 3);
  EXPECT_EQ(Run({"--address", "unix:" + path, "runs"}).code, 0);
  EXPECT_EQ(Run({"runs", "--address", path}).code, 0);
  EXPECT_EQ(Run({"runs", "--address", "127.0.0.1:1"}).code, 3);
}

std::shared_ptr<grpc::ServerCredentials> TlsCredentials(bool of_clients_too) {
  grpc::SslServerCredentialsOptions options(of_clients_too ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                                           : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  options.pem_root_certs = kTestCertificate;
  options.pem_key_cert_pairs.push_back({kTestKey, kTestCertificate});
  return grpc::SslServerCredentials(options);
}

TEST_F(ConnectionTest, TcpTakesATokenAndTls) {
  ScriptedDaemon tls;
  scripted_.token = tls.token = kToken;
  scripted_.Start("localhost:0");
  tls.Start("localhost:0", TlsCredentials(false));
  std::string plain_address = "localhost:" + std::to_string(scripted_.port());
  std::string tls_address = "localhost:" + std::to_string(tls.port());
  std::string token = dir_.Write("token", kToken + "\n");
  std::string wrong = dir_.Write("wrong", "ffffffffffffffffffffffffffffffff");
  std::string certificate = dir_.Write("cert.pem", kTestCertificate);

  EXPECT_EQ(Run({"runs", "--address", plain_address, "--token-file", token}).code, 0);
  EXPECT_EQ(Run({"runs", "--address", tls_address, "--token-file", token, "--tls-ca", certificate}).code, 0);
  // The daemon's own file, on the machine it is on: its first token.
  for (const std::string& text : {"# ours\n\n read " + kToken + " board\ncontrol ffffffffffffffffffffffffffffffff\n",
                                  "control\t" + kToken + "\r\n", kToken + " anna"}) {
    EXPECT_EQ(Run({"runs", "--address", plain_address, "--token-file", dir_.Write("daemons", text)}).code, 0) << text;
  }
  Outcome none = Run({"runs", "--address", plain_address, "--token-file", dir_.Write("none", "# nothing\n\nread\n")});
  EXPECT_EQ(none.err, "ikkuna: --token-file: '" + dir_.path() + "/none' has no token\n");
  Outcome outcome = Run({"runs", "--address", plain_address});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: no token; pass --token-file\n");
  outcome = Run({"runs", "--address", plain_address, "--token-file", wrong});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("the token is not that of this daemon"));
  EXPECT_EQ(Run({"runs", "--address", tls_address, "--token-file", token}).code, 3);
}

TEST_F(ConnectionTest, ACertificateOfOnesOwnIsShown) {
  scripted_.Start("localhost:0", TlsCredentials(true));
  std::string address = "localhost:" + std::to_string(scripted_.port());
  std::string certificate = dir_.Write("cert.pem", kTestCertificate), key = dir_.Write("key.pem", kTestKey);
  EXPECT_EQ(
      Run({"runs", "--address", address, "--tls-ca", certificate, "--tls-cert", certificate, "--tls-key", key}).code,
      0);
  EXPECT_EQ(Run({"runs", "--address", address, "--tls-ca", certificate}).code, 3);
  EXPECT_EQ(Run({"runs", "--address", address, "--tls-cert", certificate}).err,
            "ikkuna: --tls-cert and --tls-key go together; pass both\n");
}

TEST_F(ConnectionTest, APathOfASocketThatIsTooLongIsOneClearLine) {
  environment_["IKKUNA_DIR"] = dir_.path() + "/" + std::string(120, 'd');
  Outcome outcome = Run({"status"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("bytes, and a system takes 107 at most; set IKKUNA_DIR to a shorter directory"));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1);
}

TEST_F(ConnectionTest, WhatADaemonAddsForProgramsIsSaidToo) {
  StartDaemon();
  scripted_.failure = Refusal(grpc::StatusCode::FAILED_PRECONDITION, "run 'a' goes on", v1::ERROR_REASON_RUN_OPEN, "a",
                              "stop it first");
  EXPECT_EQ(Run({"runs"}).err, "ikkuna: run 'a' goes on; stop it first\n");
  scripted_.failure = Refusal(grpc::StatusCode::FAILED_PRECONDITION, "run 'a' goes on: stop it first",
                              v1::ERROR_REASON_RUN_OPEN, "a", "stop it first");
  EXPECT_EQ(Run({"runs"}).err, "ikkuna: run 'a' goes on: stop it first\n");
  // Details that are none do no harm.
  scripted_.failure = {grpc::StatusCode::INTERNAL, "broken", "\x01\xff no details"};
  EXPECT_EQ(Run({"runs"}).err, "ikkuna: broken\n");
}

TEST_F(ConnectionTest, WithoutADaemonOnlyWhatIsRecordedCanBeAsked) {
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"status"}, {"watch"}, {"top", "--once"}, {"subscribe", "loss"}, {"stop"}, {"delete", "a", "--yes"}}) {
    std::vector<std::string> words = command;
    words.insert(words.begin(), {"--data-dir", dir_.path()});
    Outcome outcome = Run(words);
    EXPECT_EQ(outcome.code, 2) << command[0];
    EXPECT_THAT(outcome.err, HasSubstr("needs a daemon: leave out --data-dir")) << command[0];
  }
  EXPECT_THAT(Run({"--data-dir", dir_.path(), "--address", "x:1", "runs"}).err, HasSubstr("leave out"));
}

TEST_F(ConnectionTest, FlagsThatDoNotGoTogetherAreRefused) {
  std::string token = dir_.Write("token", kToken);
  Outcome outcome = Run({"runs", "--token-file", token});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("are for TCP"));
  outcome = Run({"runs", "--address", "example.org:1", "--token-file", token});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("pass --tls-ca"));
  outcome = Run({"runs", "--address", "127.0.0.1:1", "--token-file", dir_.path() + "/missing"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("--token-file: cannot read '" + dir_.path() + "/missing'"));
}

TEST_F(ConnectionTest, ARefusalIsShownAsTheDaemonSaidIt) {
  scripted_.failure = {grpc::StatusCode::FAILED_PRECONDITION, "the store is \x1b[31mread-only"};
  StartDaemon();
  Outcome outcome = Run({"runs"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: the store is \\x1b[31mread-only\n");
}

TEST_F(ConnectionTest, AnotherProgramOnTheSocketIsNoDaemon) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, (dir_.path() + "/grpc.sock").c_str());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(fd.get(), 8), 0);
  Outcome outcome = Run({"runs"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("takes the connection but does not answer"));
}

TEST_F(ConnectionTest, HelpHasExamplesForEveryCommand) {
  Outcome outcome = Run({"--help"});
  EXPECT_EQ(outcome.code, 0);
  for (const char* command : kCommands) {
    EXPECT_THAT(outcome.out, HasSubstr(std::string("\n  ") + command + " "));
    Outcome help = Run({command, "--help"});
    EXPECT_EQ(help.code, 0) << command;
    EXPECT_THAT(help.out, HasSubstr("Example")) << command;
    EXPECT_THAT(help.out, HasSubstr(std::string("ikkuna ") + command)) << command;
  }
  EXPECT_THAT(Run({"--version"}).out, HasSubstr("ikkuna "));
}

TEST_F(ConnectionTest, ATypoInAnyFlagIsAnErrorThatNamesIt) {
  std::regex flag("--[a-z-]+");
  size_t checked = 0;
  for (const char* command : kCommands) {
    std::string help = Run({command, "--help"}).out;
    help.resize(help.find("Example"));  // they show flags of other programs
    std::set<std::string> flags;
    for (std::sregex_iterator it(help.begin(), help.end(), flag), end; it != end; ++it) flags.insert(it->str());
    for (const std::string& name : flags) {
      Outcome outcome = Run({command, name + "q"});
      EXPECT_EQ(outcome.code, 2) << command << " " << name;
      EXPECT_EQ(outcome.out, "") << command << " " << name;
      EXPECT_THAT(outcome.err, HasSubstr("there is no flag '" + name + "q'; did you mean '" + name + "'?"))
          << command << " " << name;
      ++checked;
    }
    std::vector<std::string> line = {command, "word", "--nosuchflag"};
    Outcome outcome = Run(line);
    EXPECT_EQ(outcome.code, 2) << command;
    EXPECT_THAT(outcome.err, HasSubstr("there is no flag '--nosuchflag'.")) << command;
    EXPECT_THAT(outcome.err, HasSubstr(std::string("'ikkuna ") + command + " --help' shows what it takes.")) << command;
  }
  EXPECT_GT(checked, 120u);
}

TEST_F(ConnectionTest, WrongValuesAndCommandsAreUsageErrors) {
  EXPECT_EQ(Run({}).code, 2);
  EXPECT_EQ(Run({"statsu"}).code, 2);
  EXPECT_EQ(Run({"statsu"}).err,
            "ikkuna: there is no command 'statsu'; did you mean 'status'?\n'ikkuna --help' shows what it takes.\n");
  EXPECT_EQ(Run({"plot"}).code, 2);
  EXPECT_EQ(Run({"plot", "loss", "--width", "2"}).code, 2);
  EXPECT_EQ(Run({"plot", "loss", "--x", "miles"}).code, 2);
  EXPECT_EQ(Run({"read", "loss", "--format", "xml"}).code, 2);
  EXPECT_EQ(Run({"read", "loss", "--rank", "first"}).code, 2);
  EXPECT_EQ(Run({"top", "--interval", "0"}).code, 2);
  EXPECT_EQ(Run({"freeze"}).code, 2);
  EXPECT_EQ(Run({"subscribe"}).code, 2);
  EXPECT_EQ(Run({"read", "loss", "--points", "1"}).code, 2);
  EXPECT_EQ(Run({"read", "loss", "--max-points", "9"}).code, 2);
  EXPECT_EQ(Run({"plot", "loss", "--smooth", "-1"}).code, 2);
  EXPECT_EQ(Run({"export"}).code, 2);
  EXPECT_EQ(Run({"delete", "--yes"}).code, 2);
  EXPECT_EQ(Run({"run"}).code, 2);
}

TEST_F(ConnectionTest, AFullDiskIsNoSuccess) {
  StartDaemon();
  std::unique_ptr<Program> program = Spawn({"runs"}, "/dev/full");
  EXPECT_EQ(program->Wait(), 1);
  EXPECT_THAT(program->err(), HasSubstr("cannot write to standard output"));
}

// A bare chroot has no /dev/pts: then there is no terminal to write to.
bool HasTerminals() {
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master || ::grantpt(master.get()) != 0 || ::unlockpt(master.get()) != 0) return false;
  return UniqueFd(::open(::ptsname(master.get()), O_RDWR | O_NOCTTY | O_CLOEXEC)).valid();
}

// Everything that a command writes to a terminal until it ends or shows that there is no run.
std::string OnTerminal(const std::function<std::unique_ptr<Program>(const std::string&)>& spawn, int end_signal) {
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  if (!master || ::grantpt(master.get()) != 0 || ::unlockpt(master.get()) != 0) return "";
  // Kept open, so that reading goes on after the program has closed its end.
  UniqueFd slave(::open(::ptsname(master.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
  std::unique_ptr<Program> program = spawn(::ptsname(master.get()));
  std::string text;
  auto drain = [&] {
    char bytes[4096];
    ssize_t count;
    while ((count = ::read(master.get(), bytes, sizeof bytes)) > 0) text.append(bytes, static_cast<size_t>(count));
    return !text.empty() && text.find("No run has been recorded yet.") != std::string::npos;
  };
  Eventually(drain);
  if (end_signal != 0) program->Signal(end_signal);
  EXPECT_EQ(program->Wait(), 0);
  drain();
  return text;
}

TEST_F(ConnectionTest, ColoursOnATerminalUnlessToldOtherwise) {
  if (!HasTerminals()) GTEST_SKIP() << "this system gives no pseudo-terminal: mount /dev/pts";
  scripted_.status.set_version("9.9");
  StartDaemon();
  auto spawn = [&](const std::string& tty) { return Spawn({"top", "--once"}, tty); };
  environment_["TERM"] = "xterm";
  EXPECT_THAT(OnTerminal(spawn, 0), HasSubstr("\x1b[1mikkuna-daemon 9.9\x1b[0m"));
  environment_["NO_COLOR"] = "1";
  std::string plain = OnTerminal(spawn, 0);
  EXPECT_THAT(plain, HasSubstr("ikkuna-daemon 9.9"));
  EXPECT_THAT(plain, Not(HasSubstr("\x1b")));
  EXPECT_THAT(Out({"top"}), Not(HasSubstr("\x1b")));
}

TEST_F(ConnectionTest, TopGivesTheScreenBackAtItsEnd) {
  if (!HasTerminals()) GTEST_SKIP() << "this system gives no pseudo-terminal: mount /dev/pts";
  StartDaemon();
  environment_["TERM"] = "xterm";
  std::string text = OnTerminal(
      [&](const std::string& tty) {
        return Spawn({"top", "--interval", "0.1"}, tty);
      },
      SIGINT);
  EXPECT_THAT(text, testing::StartsWith("\x1b[?1049h\x1b[?25l"));
  EXPECT_THAT(text, testing::EndsWith("\x1b[?25h\x1b[?1049l"));
}

}  // namespace
}  // namespace ikkuna::test
