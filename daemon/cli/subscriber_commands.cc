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

// What came to nothing, by reason.
std::string MissingText(const v1::Subscriber& one) {
  std::string text;
  for (const v1::Count& count : one.missing()) {
    text += (text.empty() ? "" : ", ") + PlainText(count.reason()) + " " + Count(count.count());
  }
  return text.empty() ? "-" : text;
}

std::string SourceText(const v1::Subscriber& one) {
  std::string text = EnumWord(*v1::SubscriberSource_descriptor(), one.source());
  if (!one.owners().empty()) text += " (" + Joined(one.owners()) + ")";
  if (one.off()) text += ", OFF: it failed";
  return text;
}

std::string SubscriberTable(const Terminal& terminal, const Subscribers& subscribers) {
  TextTable table({{"id", true},
                   {"subscriber"},
                   {"source"},
                   {"publishes"},
                   {"runs"},
                   {"results", true},
                   {"cpu", true},
                   {"missing"}});
  for (const v1::Subscriber& one : subscribers) {
    table.Add({std::to_string(one.id()), PlainText(one.text()), SourceText(one), Joined(one.topics()),
               EnumWord(*v1::Runs_descriptor(), one.runs()), Count(one.computed()),
               ShortNumber(one.cpu_seconds()) + " s", MissingText(one)});
  }
  return table.Text(terminal);
}

std::string MetricTable(const Terminal& terminal, const v1::ListMetricsResponse& response) {
  TextTable table({{"metric"}, {"parameters"}, {"publishes"}, {"cost"}, {"what it is"}});
  for (const v1::Metric& metric : response.metrics()) {
    std::string parameters, outputs;
    for (const v1::MetricParameter& parameter : metric.parameters()) {
      parameters += (parameters.empty() ? "" : ", ") + parameter.name();
      if (!parameter.default_value().empty()) parameters += "=" + parameter.default_value();
    }
    for (const v1::MetricOutput& output : metric.outputs()) {
      outputs += (outputs.empty() ? "" : ", ") + output.topic();
      if (output.type() != v1::VALUE_TYPE_NUMBER) {
        outputs += " (" + EnumWord(*v1::ValueType_descriptor(), output.type()) + ")";
      }
    }
    table.Add({PlainText(metric.name()), PlainText(parameters), PlainText(outputs),
               EnumWord(*v1::Cost_descriptor(), metric.cost()), PlainText(metric.help())});
  }
  return table.Text(terminal);
}

// An id, the written form, or a topic.
v1::RemoveSubscribersRequest WhichOf(const std::string& word) {
  v1::RemoveSubscribersRequest request;
  uint64_t id = 0;
  if (CLI::detail::lexical_cast(word, id) && word.find_first_not_of("0123456789") == std::string::npos) {
    request.set_id(id);
  } else if (word.find('(') != std::string::npos) {
    request.set_text(word);
  } else {
    request.set_topic(word);
  }
  return request;
}

Result<int> Subscribe(Context& context, const std::vector<std::string>& texts, bool json) {
  Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("subscribe");
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
  Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("unsubscribe");
  if (!client) return client.error();
  v1::RemoveSubscribersResponse all;
  for (const std::string& what : whats) {
    Result<v1::RemoveSubscribersResponse> response =
        (*client)->Call(&v1::Monitor::Stub::RemoveSubscribers, WhichOf(what));
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
    for (const v1::Subscriber& one : response->kept()) {
      if (!json) {
        Print("stays on, since " + Joined(one.owners()) + " asked for it too: " + std::to_string(one.id()) + ", " +
              PlainText(one.text()) + "\n");
      }
    }
    all.MergeFrom(*response);
  }
  if (json) Print(JsonText(ToJson(all)));
  return kExitOk;
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
      "  ikkuna subscribe 'max(weights, subsample=100, run=fashion)'\n"
      "It stays over restarts of the daemon, until it is unsubscribed. "
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

  struct ListOptions {
    std::string run;
    bool json = false;
  };
  auto list = std::make_shared<ListOptions>();
  CLI::App* subscribers = app.add_subcommand("subscribers", "What is subscribed now, and what came of it");
  subscribers->add_option("--run", list->run, "Only what sees this run: its name, its id, or 'latest'")
      ->type_name("RUN");
  subscribers->add_flag("--json", list->json, "As JSON");
  subscribers->footer("Example:\n  ikkuna subscribers --json | jq -r '.[].text'");
  subscribers->callback([&context, list] {
    context.chosen = [&context, list]() -> Result<int> {
      Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("subscribers");
      if (!client) return client.error();
      auto response = (*client)->ListSubscribers(list->run);
      if (!response) return response.error();
      if (list->json)
        Print(JsonText(ToJsonArray(response->subscribers())));
      else if (response->subscribers().empty())
        Print("Nothing is subscribed.\n");
      else
        Print(SubscriberTable(context.terminal, response->subscribers()));
      return kExitOk;
    };
  });

  auto json = std::make_shared<bool>(false);
  CLI::App* metrics = app.add_subcommand("metrics", "The metrics that can be subscribed, with their parameters");
  metrics->add_flag("--json", *json, "As JSON");
  metrics->footer("Example:\n  ikkuna metrics");
  metrics->callback([&context, json] {
    context.chosen = [&context, json]() -> Result<int> {
      Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("metrics");
      if (!client) return client.error();
      auto response = (*client)->Call(&v1::Monitor::Stub::ListMetrics, v1::ListMetricsRequest());
      if (!response) return response.error();
      Print(*json ? JsonText(ToJsonArray(response->metrics())) : MetricTable(context.terminal, *response));
      return kExitOk;
    };
  });
}

}  // namespace ikkuna::cli
