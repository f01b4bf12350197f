// ikkuna subscribe, unsubscribe, subscribers, metrics
#include <cstdio>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

using Subscribers = google::protobuf::RepeatedPtrField<v1::Subscriber>;

std::string Joined(const google::protobuf::RepeatedPtrField<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return PlainText(text);
}

std::string SubscriberTable(const Terminal& terminal, const Subscribers& subscribers) {
  TextTable table({{"id", true},
                   {"subscriber"},
                   {"source"},
                   {"publishes"},
                   {"results", true},
                   {"incomplete", true},
                   {"cpu", true}});
  for (const v1::Subscriber& one : subscribers) {
    table.Add({std::to_string(one.id()), PlainText(one.text()),
               EnumWord(*v1::SubscriberSource_descriptor(), one.source()), Joined(one.topics()), Count(one.computed()),
               Count(one.incomplete()), ShortNumber(one.cpu_seconds()) + " s"});
  }
  return table.Text(terminal);
}

std::string MetricTable(const Terminal& terminal, const v1::ListMetricsResponse& response) {
  TextTable table({{"metric"}, {"parameters"}, {"publishes"}, {"cost"}, {"what it is"}});
  for (const v1::Metric& metric : response.metrics()) {
    std::string parameters;
    for (const v1::MetricParameter& parameter : metric.parameters()) {
      parameters += (parameters.empty() ? "" : ", ") + parameter.name();
      if (!parameter.default_value().empty()) parameters += "=" + parameter.default_value();
    }
    table.Add({metric.name(), parameters, metric.publishes(), metric.cost(), metric.help()});
  }
  return table.Text(terminal);
}

Result<int> Subscribe(Context& context, const std::vector<std::string>& texts, bool json) {
  Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
  if (!client) return client.error();
  v1::AddSubscribersRequest request;
  std::string joined;
  for (const std::string& text : texts) joined += (joined.empty() ? "" : "; ") + text;
  request.set_text(joined);
  Result<v1::AddSubscribersResponse> response = (*client)->Call(&v1::Monitor::Stub::AddSubscribers, request);
  if (!response) return response.error();
  for (const std::string& warning : response->warnings()) {
    std::fprintf(stderr, "ikkuna: warning: %s\n", PlainText(warning).c_str());
  }
  if (json) {
    Print(JsonText(ToJson(*response)));
    return kExitOk;
  }
  for (const v1::Subscriber& one : response->subscribers()) {
    Print("subscribed " + std::to_string(one.id()) + ": " + PlainText(one.text()) + ", publishes " +
          Joined(one.topics()) + "\n");
  }
  for (const v1::Subscriber& one : response->replaced()) {
    Print("  in place of " + std::to_string(one.id()) + " of the default set: " + PlainText(one.text()) +
          "; it is back when its place is free\n");
  }
  return kExitOk;
}

Result<int> Unsubscribe(Context& context, const std::vector<std::string>& whats, bool json) {
  Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
  if (!client) return client.error();
  v1::RemoveSubscribersResponse all;
  for (const std::string& what : whats) {
    v1::RemoveSubscribersRequest request;
    request.set_what(what);
    Result<v1::RemoveSubscribersResponse> response = (*client)->Call(&v1::Monitor::Stub::RemoveSubscribers, request);
    if (!response) {
      if (json && all.subscribers_size() > 0) Print(JsonText(ToJson(all)));
      return response.error();
    }
    for (const v1::Subscriber& one : response->subscribers()) {
      if (!json) Print("unsubscribed " + std::to_string(one.id()) + ": " + PlainText(one.text()) + "\n");
    }
    for (const v1::Subscriber& one : response->restored()) {
      if (!json)
        Print("  the default set's is back, " + std::to_string(one.id()) + ": " + PlainText(one.text()) + "\n");
    }
    all.MergeFrom(*response);
  }
  if (json) Print(JsonText(ToJson(all)));
  return kExitOk;
}

// A command without arguments of its own: asks, and prints a table or the elements as JSON.
template <typename Ask>
void AddListCommand(CLI::App& app, Context& context, const char* name, const char* help, const char* footer, Ask ask) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand(name, help);
  command->add_flag("--json", *json, "As JSON");
  command->footer(footer);
  command->callback([&context, json, ask] {
    context.chosen = [&context, json, ask]() -> Result<int> {
      Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
      if (!client) return client.error();
      Result<std::string> text = ask(**client, context.terminal, *json);
      if (!text) return text.error();
      Print(*text);
      return kExitOk;
    };
  });
}

}  // namespace

void AddSubscriberCommands(CLI::App& app, Context& context) {
  struct Options {
    std::vector<std::string> words;
    bool json = false;
  };
  auto add = std::make_shared<Options>();
  CLI::App* subscribe = app.add_subcommand("subscribe", "Adds subscribers while the runs go on; all of them or none");
  subscribe->add_option("SUBSCRIBER", add->words, "In written form; 'ikkuna metrics' lists the names")->required();
  subscribe->add_flag("--json", add->json, "As JSON");
  subscribe->footer(
      "Examples:\n  ikkuna subscribe 'norm(weights, order=3)'\n"
      "  ikkuna subscribe 'mean(activations, subsample=10, module=features.*)' 'ratio(weight_updates, weights)'\n"
      "One of the default set that publishes the same topic gives way until this one is unsubscribed.");
  subscribe->callback(
      [&context, add] { context.chosen = [&context, add] { return Subscribe(context, add->words, add->json); }; });

  auto remove = std::make_shared<Options>();
  CLI::App* unsubscribe = app.add_subcommand("unsubscribe", "Ends subscribers; what they recorded stays");
  unsubscribe->add_option("WHAT", remove->words, "An id, the written form, or a topic")->required();
  unsubscribe->add_flag("--json", remove->json, "As JSON");
  unsubscribe->footer("Examples:\n  ikkuna unsubscribe 12\n  ikkuna unsubscribe weights_norm3");
  unsubscribe->callback([&context, remove] {
    context.chosen = [&context, remove] { return Unsubscribe(context, remove->words, remove->json); };
  });

  AddListCommand(app, context, "subscribers", "What is subscribed now",
                 "Example:\n  ikkuna subscribers --json | jq -r '.[].text'",
                 [](Client& client, const Terminal& terminal, bool json) -> Result<std::string> {
                   auto response = client.Call(&v1::Monitor::Stub::ListSubscribers, v1::ListSubscribersRequest());
                   if (!response) return response.error();
                   if (json) return JsonText(ToJsonArray(response->subscribers()));
                   return response->subscribers().empty() ? "Nothing is subscribed.\n"
                                                          : SubscriberTable(terminal, response->subscribers());
                 });
  AddListCommand(app, context, "metrics", "The metrics that can be subscribed, with their parameters",
                 "Example:\n  ikkuna metrics",
                 [](Client& client, const Terminal& terminal, bool json) -> Result<std::string> {
                   auto response = client.Call(&v1::Monitor::Stub::ListMetrics, v1::ListMetricsRequest());
                   if (!response) return response.error();
                   return json ? JsonText(ToJsonArray(response->metrics())) : MetricTable(terminal, *response);
                 });
}

}  // namespace ikkuna::cli
