#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/message_size.h"
#include "daemon/service/request_checks.h"
#include "daemon/service/run_choice.h"

namespace ikkuna::service {
namespace {

constexpr uint32_t kModulesMax = 1000;

void ConvertModule(const ModuleInfo& from, v1::Module* to) {
  to->set_root(Shown(from.root));
  to->set_name(Shown(from.name));
  to->set_type(Shown(from.type));
  to->set_functional(from.functional);
  for (const ModuleInfo::Param& param : from.params) {
    v1::Parameter* out = to->add_parameters();
    out->set_name(Shown(param.name));
    out->set_dtype(Shown(param.dtype));
    out->mutable_sizes()->Add(param.sizes.begin(), param.sizes.end());
    out->set_bias(param.bias);
    out->set_trainable(param.trainable);
    out->set_buffer(param.buffer);
  }
}

}  // namespace

Outcome Handle(const Call& call, const v1::ListModulesRequest& request, v1::ListModulesResponse* response) {
  if (Outcome bad = CheckText("run", request.run())) return bad;
  if (Outcome bad = CheckText("module", request.module())) return bad;
  if (Outcome bad = CheckText("page", request.page())) return bad;
  if (Outcome bad = CheckLimit(request.limit(), kModulesMax, "modules")) return bad;
  ModuleQuery query;
  query.run = ToRunChoice(request);
  query.module = request.module();
  query.page = request.page();
  const auto ask = [&](uint32_t limit) {
    query.limit = limit;
    return call.monitor.runs.ListModules(query);
  };
  return FillPage(request.limit() == 0 ? kModulesMax : request.limit(), ask, [&](const ModulePage& page) {
    response->Clear();
    Convert(page.run, response->mutable_run());
    MessageRoom room;
    for (const ModuleInfo& module : page.modules) {
      v1::Module* out = response->add_modules();
      ConvertModule(module, out);
      if (room.Take(out->ByteSizeLong())) continue;
      response->mutable_modules()->RemoveLast();
      break;
    }
    response->set_next_page(page.next);
    return Filled{static_cast<size_t>(response->modules_size()), page.modules.size()};
  });
}

}  // namespace ikkuna::service
