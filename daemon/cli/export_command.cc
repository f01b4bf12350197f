// ikkuna export, import: all of a run, as values or as its files.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"
#include "daemon/cli/sample_writer.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::cli {
namespace {

constexpr size_t kImportBytes = 512 << 10;  // of one message

// A file that is made under another name and gets its own when all of it is on the disk: a break leaves no half.
class NewFile {
 public:
  // kAlreadyExists: nothing is written over.
  static Result<NewFile> Make(const std::string& path) {
    if (::access(path.c_str(), F_OK) == 0) {
      return Error{ErrorCode::kAlreadyExists, "'" + path + "' exists already; name another, or remove it"};
    }
    const std::string part = path + ".part";
    UniqueFd fd(::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd) return PosixError("cannot make '" + part + "'", errno);
    return NewFile(path, std::move(fd));
  }
  NewFile(NewFile&&) = default;
  ~NewFile() {
    if (fd_) ::unlink((path_ + ".part").c_str());
  }

  Status Write(const std::string& bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t count = ::write(fd_.get(), bytes.data() + at, bytes.size() - at);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return PosixError("cannot write '" + path_ + "'", errno);
      at += static_cast<size_t>(count);
    }
    written_ += bytes.size();
    return {};
  }
  Status Finish() {
    if (::fsync(fd_.get()) != 0) return PosixError("cannot write '" + path_ + "'", errno);
    // link, not rename: somebody else's file of this name stays.
    const std::string part = path_ + ".part";
    if (::link(part.c_str(), path_.c_str()) != 0 && (errno == EEXIST || ::rename(part.c_str(), path_.c_str()) != 0)) {
      return PosixError("cannot make '" + path_ + "'", errno);
    }
    ::unlink(part.c_str());
    fd_.reset();
    return {};
  }
  uint64_t written() const { return written_; }
  const std::string& path() const { return path_; }

 private:
  NewFile(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;
  UniqueFd fd_;
  uint64_t written_ = 0;
};

struct ExportOptions {
  std::string run;
  std::optional<uint32_t> attempt, rank;
  std::string format;
  bool json = false;
  std::string file;
  std::string output;
};

// ---- Values ----

std::vector<v1::Run> Chosen(const std::vector<v1::Run>& runs, const ExportOptions& options) {
  std::vector<v1::Run> chosen;
  for (const v1::Run& run : runs) {
    if (run.key().run_id() != runs.front().key().run_id()) continue;
    if (options.attempt && run.key().attempt() != *options.attempt) continue;
    if (options.rank && run.key().rank() != *options.rank) continue;
    chosen.push_back(run);
  }
  return chosen;
}

Result<std::vector<v1::Run>> FindRuns(Client& client, const ExportOptions& options) {
  v1::ListRunsRequest request;
  request.set_run(options.run);
  Result<std::vector<v1::Run>> runs = client.ListRuns(request);
  if (!runs && runs.error().code == ErrorCode::kNotFound) return NoRun(client, options.run, runs.error());
  if (!runs) return runs.error();
  std::vector<v1::Run> chosen;
  if (!runs->empty()) chosen = Chosen(*runs, options);
  if (chosen.empty()) return Error{ErrorCode::kNotFound, "run '" + options.run + "' has no such attempt and rank"};
  return chosen;
}

Result<int> ExportValues(Context& context, Client& client, const ExportOptions& options) {
  Result<std::vector<v1::Run>> runs = FindRuns(client, options);
  if (!runs) return runs.error();
  std::optional<NewFile> file;
  Status failed;
  if (!options.output.empty()) {
    Result<NewFile> made = NewFile::Make(options.output);
    if (!made) return made.error();
    file.emplace(*std::move(made));
  }
  const auto print = [&](const std::string& text) {
    if (!file)
      Print(text);
    else if (failed)
      failed = file->Write(text);
  };
  const bool json = options.json || options.format == "json";
  std::unique_ptr<SampleWriter> writer =
      SampleWriter::Make(json ? SampleFormat::kJson : SampleFormat::kCsv, context.terminal, print);
  writer->Begin();
  // Every attempt for itself, whatever overtook what: this is all that is kept.
  for (auto run = runs->rbegin(); run != runs->rend(); ++run) {
    RunLine line;
    line.run = *run;
    line.attempts = {run->key().attempt()};
    Status done = ReadSamples(client, line, {}, [&](const v1::Columns& columns) -> Result<bool> {
      writer->Add(line, columns);
      if (!failed) return failed.error();
      return file ? true : OutputGoesOn();
    });
    if (!done) return done.error();
  }
  writer->End();
  if (!failed) return failed.error();
  if (file) {
    if (Status done = file->Finish(); !done) return done.error();
    std::cerr << "wrote " << file->path() << ", " << Bytes(file->written()) << "\n";
  }
  return kExitOk;
}

// ---- Files ----

// A name that the daemon gave, as one of a folder of ours.
Result<std::string> NameInFolder(const std::string& name) {
  if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos || name.find('\0') != std::string::npos) {
    return Error{ErrorCode::kCorrupt, "the daemon named a file '" + name + "', which is no name of a file"};
  }
  return name;
}

Result<int> ExportFiles(Client& client, const ExportOptions& options) {
  Result<std::vector<v1::Run>> runs = FindRuns(client, options);
  if (!runs) return runs.error();
  std::error_code ignored;
  const bool folder = runs->size() > 1 || std::filesystem::is_directory(options.file, ignored);
  if (folder) {
    std::error_code failed;
    std::filesystem::create_directories(options.file, failed);
    if (failed) return PosixError("cannot make the folder '" + options.file + "' for several files", failed.value());
  }
  v1::ExportRunRequest request;
  request.set_run(runs->front().key().run_id());
  if (options.attempt) request.set_attempt(*options.attempt);
  if (options.rank) request.set_rank(*options.rank);
  std::optional<NewFile> file;
  uint64_t expected = 0;
  std::vector<std::pair<std::string, uint64_t>> written;
  const auto finish = [&]() -> Status {
    if (!file) return {};
    if (file->written() != expected) {
      return Error{ErrorCode::kCorrupt, "of '" + file->path() + "' " + Count(file->written()) +
                                            " bytes came instead of " + Count(expected) + "; export it again"};
    }
    if (Status done = file->Finish(); !done) return done;
    written.emplace_back(file->path(), expected);
    file.reset();
    return {};
  };
  Status done = client.Stream<v1::ExportRunRequest, v1::ExportRunResponse>(
      &v1::Monitor::Stub::ExportRun, request, [&](v1::ExportRunResponse& part) -> Result<bool> {
        if (part.has_data()) {
          if (!file) return Error{ErrorCode::kCorrupt, "the daemon sent bytes of no file"};
          if (Status wrote = file->Write(part.data()); !wrote) return wrote.error();
          return true;
        }
        if (!part.has_file()) return true;
        if (Status before = finish(); !before) return before.error();
        std::string path = options.file;
        if (folder) {
          Result<std::string> name = NameInFolder(part.file().name());
          if (!name) return name.error();
          path += "/" + *name;
        } else if (!written.empty()) {
          return Error{ErrorCode::kFailedPrecondition,
                       "the run has several files: name a folder with --file, or one --attempt and --rank"};
        }
        Result<NewFile> made = NewFile::Make(path);
        if (!made) return made.error();
        file.emplace(*std::move(made));
        expected = part.file().bytes();
        return true;
      });
  if (done) done = finish();
  if (!done) return done.error();
  for (const auto& [path, bytes] : written) {
    if (!options.json) Print("wrote " + path + ", " + Bytes(bytes) + "\n");
  }
  if (options.json) {
    Json json = Json::array();
    for (const auto& [path, bytes] : written) json.push_back({{"file", path}, {"bytes", bytes}});
    Print(JsonText(json));
  }
  return kExitOk;
}

Result<int> RunExport(Context& context, const ExportOptions& options) {
  if (!options.file.empty() && (!options.output.empty() || !options.format.empty())) {
    return Error{ErrorCode::kInvalidArgument, "--file copies the run's own files; leave out --format and --output"};
  }
  Result<std::unique_ptr<Client>> client =
      options.file.empty() ? context.Connect() : context.ConnectToDaemon("export --file (copy the file itself)");
  if (!client) return client.error();
  return options.file.empty() ? ExportValues(context, **client, options) : ExportFiles(**client, options);
}

Result<int> RunImport(Context& context, const std::vector<std::string>& paths, bool json) {
  Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("import");
  if (!client) return client.error();
  Json all = Json::array();
  for (const std::string& path : paths) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return PosixError("cannot read '" + path + "'", errno);
    struct stat info {};
    if (::fstat(fd.get(), &info) == 0 && S_ISDIR(info.st_mode)) {
      return Error{ErrorCode::kInvalidArgument, "'" + path + "' is a folder; name the files of runs in it"};
    }
    // A file that is being written has the rest of its values beside it, and would be taken without them.
    struct stat log {};
    if (::stat((path + "-wal").c_str(), &log) == 0 && log.st_size > 0) {
      return Error{ErrorCode::kFailedPrecondition,
                   "'" + path + "' is being written, or was when its daemon died ('" + path +
                       "-wal' holds the rest): take it with 'ikkuna export RUN --file'"};
    }
    bool whole = false;
    Result<v1::ImportRunResponse> response = (*client)->Import([&]() -> Result<std::optional<v1::ImportRunRequest>> {
      if (whole) return std::optional<v1::ImportRunRequest>();
      v1::ImportRunRequest part;
      std::string* data = part.mutable_data();
      data->resize(kImportBytes);
      ssize_t count;
      do {
        count = ::read(fd.get(), data->data(), data->size());
      } while (count < 0 && errno == EINTR);
      if (count < 0) return PosixError("cannot read '" + path + "'", errno);
      whole = count == 0;
      part.set_last(whole);
      data->resize(static_cast<size_t>(count));
      return std::optional<v1::ImportRunRequest>(std::move(part));
    });
    if (!response) return Error{response.error().code, "'" + path + "': " + response.error().text};
    const v1::Run& run = response->run();
    if (json) {
      all.push_back(ToJson(run));
    } else {
      Print("imported '" + PlainText(RunName(run)) + "', attempt " + std::to_string(run.key().attempt()) + ", " +
            RankText(run.key().rank()) + ": " + Counted(run.values(), "value") + ", up to step " +
            Count(run.last_step()) + "\n");
    }
  }
  if (json) Print(JsonText(all));
  return kExitOk;
}

}  // namespace

void AddExportCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command = app.add_subcommand("export", "All values of a run as CSV or JSON, or its files as they are");
  command->add_option("RUN", options->run, "Run: its name, its id, or 'latest'")->required();
  command->add_option("--attempt", options->attempt, "Only this life of the run; default: all")->type_name("N");
  command->add_option("--rank", options->rank, "Only this rank; default: all")->type_name("N");
  command->add_option("--format", options->format, "Form of the values; default: csv")
      ->check(CLI::IsMember({"csv", "json"}));
  command->add_flag("--json", options->json,
                    "The same as --format json; with --file: which files were written, as JSON");
  command->add_option("--output", options->output, "Write to this file, which must not exist, not to standard output")
      ->type_name("FILE");
  command
      ->add_option("--file", options->file,
                   "Copy the run's own file here, whether it goes on or has ended; several go into a folder")
      ->type_name("PATH");
  command->footer(
      "A file can be read without a daemon (ikkuna --data-dir FILE read ...), and be taken in by 'ikkuna import'.\n\n"
      "Examples:\n  ikkuna export fashion > fashion.csv\n  ikkuna export latest --format json --output fashion.json\n"
      "  ikkuna export fashion --file fashion.run");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunExport(context, *options); }; });
}

void AddImportCommand(CLI::App& app, Context& context) {
  struct Options {
    std::vector<std::string> paths;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("import", "Takes files of runs among the recorded ones");
  command->add_option("FILE", options->paths, "Files of runs that 'ikkuna export' copied, or of another daemon's data")
      ->required();
  command->add_flag("--json", options->json, "As JSON");
  command->footer("Example:\n  ikkuna import fashion.run");
  command->callback([&context, options] {
    context.chosen = [&context, options] { return RunImport(context, options->paths, options->json); };
  });
}

}  // namespace ikkuna::cli
