#include <set>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/message_size.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {
namespace {

constexpr uint32_t kSeriesMax = 2000;
constexpr uint32_t kSeriesUsual = 1000;

}  // namespace

Outcome Handle(const Call& call, const v1::ListSeriesRequest& request, v1::ListSeriesResponse* response) {
  if (Outcome bad = CheckFilter(request.filter())) return bad;
  if (Outcome bad = CheckText("page", request.page())) return bad;
  if (Outcome bad = CheckLimit(request.limit(), kSeriesMax, "series")) return bad;
  SeriesQuery query;
  query.filter = ToFilter(request.filter());
  query.page = request.page();
  const auto ask = [&](uint32_t limit) {
    query.limit = limit;
    return call.monitor.series.ListSeries(query);
  };
  return FillPage(request.limit() == 0 ? kSeriesUsual : request.limit(), ask, [&](const SeriesPage& page) {
    response->Clear();
    MessageRoom room;
    std::set<RunKey> named;
    for (const SeriesInfo& series : page.series) {
      v1::SeriesSummary* out = response->add_series();
      Convert(series, out);
      size_t bytes = out->ByteSizeLong();
      const bool fresh = named.insert(series.run->run_key).second;
      if (fresh) {
        v1::Run* run = response->add_runs();
        ConvertBrief(*series.run, run);
        bytes += run->ByteSizeLong() + kFramingBytes;
      }
      if (room.Take(bytes)) continue;
      response->mutable_series()->RemoveLast();
      if (fresh) response->mutable_runs()->RemoveLast();
      break;
    }
    response->set_next_page(page.next);
    for (const std::string& one : page.unread) response->add_unread(Shown(one));
    return Filled{static_cast<size_t>(response->series_size()), page.series.size()};
  });
}

}  // namespace ikkuna::service
