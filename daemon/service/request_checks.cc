#include "daemon/service/request_checks.h"

#include <utility>

namespace ikkuna::service {

Outcome CheckText(const char* field, const std::string& text) {
  if (text.size() <= kRequestTextBytesMax) return {};
  return BadField(field, std::string(field) + " has " + std::to_string(text.size()) + " bytes; at most " +
                             std::to_string(kRequestTextBytesMax) + " are taken");
}

Outcome CheckGiven(const char* field, const std::string& text) {
  if (text.empty()) return BadField(field, std::string(field) + " is empty");
  return CheckText(field, text);
}

Outcome CheckLimit(uint32_t limit, uint32_t most, const char* of_what) {
  if (limit <= most) return {};
  return BadField("limit", "limit is " + std::to_string(limit) + "; at most " + std::to_string(most) + " " + of_what +
                               " fit one answer, ask for the next page after it");
}

Outcome CheckFilter(const v1::SeriesFilter& filter) {
  const std::pair<const char*, const std::string*> fields[] = {
      {"filter.run", &filter.run()},       {"filter.tag", &filter.tag()},     {"filter.root", &filter.root()},
      {"filter.module", &filter.module()}, {"filter.param", &filter.param()}, {"filter.topic", &filter.topic()}};
  for (const auto& [name, text] : fields) {
    if (Outcome bad = CheckText(name, *text)) return bad;
  }
  return {};
}

}  // namespace ikkuna::service
