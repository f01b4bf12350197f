// ikkuna why: what is missing of a run, and for which reason.
#include <algorithm>
#include <iostream>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

struct WhyOptions {
  std::string run = "latest";
  std::optional<uint32_t> attempt, rank;
  std::string module, kind;
  bool json = false;
};

Result<int> RunWhy(Context& context, const WhyOptions& options) {
  Result<std::unique_ptr<Client>> client = context.Connect();
  if (!client) return client.error();
  v1::WhyRequest request;
  request.set_run(options.run);
  if (options.attempt) request.set_attempt(*options.attempt);
  if (options.rank) request.set_rank(*options.rank);
  request.set_module(options.module);
  request.set_kind(options.kind);
  Result<v1::WhyResponse> response = (*client)->Call(&v1::Monitor::Stub::Why, request);
  if (!response && response.error().code == ErrorCode::kNotFound) return NoRun(**client, options.run, response.error());
  if (!response) return response.error();
  const bool offline = !context.connection.data_dir.empty();
  if (offline) {
    std::cerr << "ikkuna: read without a daemon: which subscriber missed what is not part of a run\n";
  }
  if (options.json) {
    Print(JsonText(ToJsonArray(response->missing())));
    return kExitOk;
  }
  if (response->missing().empty()) {
    const bool narrowed = !options.module.empty() || !options.kind.empty();
    Print(std::string("Nothing is missing") + (narrowed ? " of that" : "") +
          (offline ? ", as far as the run itself tells.\n" : ": all that was asked is there.\n"));
    return kExitOk;
  }
  const bool ranks =
      std::any_of(response->missing().begin(), response->missing().end(),
                  [&](const v1::MissingValue& one) { return one.run().rank() != response->missing(0).run().rank(); });
  std::vector<TextTable::Column> columns;
  if (ranks) columns.push_back({"rank", true});
  for (const TextTable::Column& column : std::vector<TextTable::Column>{
           {"reason"}, {"module"}, {"kind"}, {"count", true}, {"what is missing, and what would change it"}}) {
    columns.push_back(column);
  }
  TextTable table(columns);
  for (const v1::MissingValue& one : response->missing()) {
    std::vector<std::string> cells;
    if (ranks) cells.push_back(one.run().rank() == kAllRanks ? "all" : std::to_string(one.run().rank()));
    std::string text = one.text();
    if (!one.subscriber().empty() && text.find(one.subscriber()) == std::string::npos) {
      text += " (" + one.subscriber() + ")";
    }
    for (std::string& cell :
         std::vector<std::string>{PlainText(one.reason()), one.module().empty() ? "all" : PlainText(one.module()),
                                  one.kind().empty() ? "all" : PlainText(one.kind()),
                                  one.count() == 0 ? "-" : Count(one.count()), PlainText(text)}) {
      cells.push_back(std::move(cell));
    }
    table.Add(std::move(cells));
  }
  Print(table.Text(context.terminal));
  if (response->more()) Print("There is more: name a module or a kind.\n");
  return kExitOk;
}

}  // namespace

void AddWhyCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<WhyOptions>();
  CLI::App* command = app.add_subcommand("why", "What is missing of a run, a module or a kind, and for which reason");
  command->add_option("RUN", options->run, "Run: its name, its id, or 'latest'")->capture_default_str();
  command->add_option("MODULE", options->module, "Modules, as a pattern; default: all");
  command->add_option("KIND", options->kind, "Kinds, such as weight_gradients, as a pattern; default: all");
  command->add_option("--attempt", options->attempt, "Life of the run; default: the last")->type_name("N");
  command->add_option("--rank", options->rank, "Rank; default: every rank")->type_name("N");
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Examples:\n  ikkuna why\n  ikkuna why latest 'features.*'\n  ikkuna why fashion fc1 weight_gradients");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunWhy(context, *options); }; });
}

}  // namespace ikkuna::cli
