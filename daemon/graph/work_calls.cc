#include "daemon/graph/work_calls.h"

#include <array>
#include <exception>
#include <utility>

namespace ikkuna::graph {

using metrics::Delivery;
using metrics::Keeps;
using metrics::Scope;

namespace {

// The calls of one lane, on a thread of the pool.
void RunLane(QueuedWork& queued, const std::vector<uint32_t>& calls) {
  const metrics::Definition& definition = queued.entry->subscription.definition;
  InputList list;
  try {
    for (const uint32_t index : calls) {
      if (queued.results->cancelled() || queued.instances->failed()) {
        queued.results->Miss(MissReason::kCancelled);
        return;
      }
      const WorkCall& call = queued.work.calls[index];
      const std::span<KeptInput> inputs{queued.work.inputs.data() + call.begin, call.end - call.begin};
      if (definition.keeps == Keeps::kRun) {
        DoCall(definition, *queued.of_run[index], inputs, call, queued.step, queued.results, list);
      } else {
        auto subscriber = queued.instances->Rouse();
        DoCall(definition, *subscriber, inputs, call, queued.step, queued.results, list);
        queued.instances->Rest(std::move(subscriber));
      }
    }
  } catch (const std::exception& error) {
    queued.instances->SetFailed();
    queued.results->Threw(error.what());
  } catch (...) {
    queued.instances->SetFailed();
    queued.results->Threw("something that is no std::exception");
  }
}

}  // namespace

void DoCall(const metrics::Definition& definition, metrics::Subscriber& subscriber, std::span<KeptInput> inputs,
            const WorkCall& call, const metrics::StepInfo& step, const metrics::ResultsRef& results, InputList& list) {
  if (definition.delivery != Delivery::kEachMessage) {
    const bool pair = definition.scope == Scope::kModule && definition.delivery == Delivery::kMerged;
    list.Build(inputs, definition.content, pair ? call.about : nullptr);
    subscriber.OnStep(step, list.inputs(), results);
    return;
  }
  for (KeptInput& input : inputs) {
    list.Build({&input, 1}, definition.content);
    subscriber.OnMessage(list.inputs()[0], list.inputs()[0].payload);
    list.Build({}, definition.content);
    input.payload.reset();
  }
  metrics::Input about;
  about.subject = call.about->subject;
  about.module = call.about->module_name;
  about.param = call.about->param_name;
  if (!inputs.empty()) about.kind = inputs[0].kind;
  const bool whole = definition.scope == Scope::kRoot || definition.scope == Scope::kJob;
  subscriber.OnStep(step, {&about, whole ? 0u : 1u}, results);
}

void PushWork(std::shared_ptr<QueuedWork> queued) {
  std::array<std::vector<uint32_t>, Instances::kLanes> calls;
  std::array<uint64_t, Instances::kLanes> bytes{};
  const bool one_lane = queued->entry->subscription.definition.scope == Scope::kRoot;
  for (uint32_t i = 0; i < queued->work.calls.size(); ++i) {
    const WorkCall& call = queued->work.calls[i];
    const size_t lane = one_lane ? 0 : call.about->number % Instances::kLanes;
    calls[lane].push_back(i);
    for (uint32_t j = call.begin; j < call.end; ++j) {
      const KeptInput& input = queued->work.inputs[j];
      bytes[lane] += sizeof input + (input.payload ? input.payload->bytes() : 0);
    }
  }
  for (size_t lane = 0; lane < Instances::kLanes; ++lane) {
    if (calls[lane].empty()) continue;
    Job job;
    job.bytes = bytes[lane];
    job.run = [queued, mine = std::move(calls[lane])] { RunLane(*queued, mine); };
    job.not_run = [queued](NotRun why) {
      queued->results->Miss(why == NotRun::kQueueFull ? MissReason::kQueueFull : MissReason::kCancelled);
    };
    WorkLane* to = queued->instances->lane(lane);
    if (to == nullptr) {
      queued->results->Miss(MissReason::kCancelled);
    } else {
      to->Push(std::move(job));
    }
  }
}

}  // namespace ikkuna::graph
