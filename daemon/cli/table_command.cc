// ikkuna table
#include "daemon/cli/layer_table.h"

namespace ikkuna::cli {

void AddTableCommand(CLI::App& app, Context& context) {
  struct Options {
    RunChoice run;
    SeriesChoice series{"default", "", "", ""};
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("table", "Layers by kinds: mean, standard deviation and norms of the latest values");
  AddSeriesOptions(command, &options->series);
  AddRunOptions(command, &options->run);
  command->add_flag("--json", options->json, "As JSON");
  command->footer("Examples:\n  ikkuna table\n  ikkuna table --module 'features.*' --tag test\n  ikkuna table --json");
  command->callback([&context, options] {
    context.chosen = [&context, options]() -> Result<int> {
      Result<std::unique_ptr<Client>> client = context.Connect();
      if (!client) return client.error();
      Result<v1::Run> run = ChooseRun(**client, options->run);
      if (!run) return run.error();
      Result<LayerTable> table = ReadLayerTable(**client, *run, options->series);
      if (!table) return table.error();
      if (options->json) {
        Print(JsonText(LayerTableJson(*table)));
        return kExitOk;
      }
      if (table->rows.empty()) {
        return Error{ErrorCode::kNotFound,
                     "run '" + RunName(*run) + "' has no means, deviations or norms of layers" +
                         (options->series.tag.empty() ? "" : " under the tag '" + options->series.tag + "'") +
                         "; 'ikkuna series' lists what there is"};
      }
      Print(Paint(context.terminal, Colour::kBold, PlainText(RunName(*run))) + ", up to step " +
            Count(table->last_step) + "\n");
      Print(LayerTableText(*table, context.terminal, 0));
      return kExitOk;
    };
  });
}

}  // namespace ikkuna::cli
