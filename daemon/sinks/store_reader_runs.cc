// The part of StoreReader that answers for producers of earlier runs.
#include <algorithm>
#include <cstring>
#include <map>
#include <sstream>
#include <string>

#include "daemon/sinks/store_reader.h"
#include "daemon/sinks/store_reader_rows.h"
#include "daemon/sinks/store_writer.h"

namespace ikkuna::sinks {
namespace {

Uuid UuidOf(const std::string& bytes) {
  Uuid uuid{};
  std::memcpy(uuid.data(), bytes.data(), std::min(bytes.size(), uuid.size()));
  return uuid;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Of one that may still go on, a status saved a moment earlier is older than what was committed with the samples.
bool Open(const std::string& state) { return state.empty() || state == "running" || state == "disconnected"; }

void TakeRecordCounts(Statement& row, ProducerStatus& producer) {
  if (Open(producer.state)) {
    const uint64_t done_seq = row.Unsigned(10);
    producer.lost_in_daemon = row.Unsigned(11);
    producer.killed = row.Unsigned(12);
    producer.handled = done_seq - std::min(done_seq, producer.lost_in_daemon);
  } else {
    producer.handled = row.Unsigned(13);
    producer.lost_in_daemon = row.Unsigned(14);
    producer.killed = row.Unsigned(15);
  }
}

ProducerStatus ProducerOfRow(Statement& row) {
  ProducerStatus producer;
  producer.info.uuid = UuidOf(row.Text(0));
  producer.info.run_key = {row.Text(1), static_cast<uint32_t>(row.Int(2)), static_cast<uint32_t>(row.Int(3))};
  producer.info.run = row.Text(4);
  producer.info.world_size = static_cast<uint32_t>(row.Int(5));
  producer.info.pid = static_cast<int32_t>(row.Int(6));
  producer.info.uid = static_cast<uint32_t>(row.Int(7));
  producer.info.start_unix_ns = row.Int(8);
  producer.state = row.Text(9);
  TakeRecordCounts(row, producer);
  producer.attempted = row.Unsigned(16);
  producer.dropped_total = row.Unsigned(17);
  producer.drops = DropsOf(row.Text(18));
  producer.steps_total = row.Unsigned(19);
  producer.steps_while_connected = row.Unsigned(20);
  producer.coverage = row.Double(21);
  producer.incomplete_bundles = row.Unsigned(22);
  producer.probe_cost = row.Double(23);
  producer.notes = Lines(row.Text(24));
  return producer;
}

}  // namespace

Result<std::vector<ProducerStatus>> StoreReader::ListProducers() {
  auto lease = Borrow();
  if (!lease) return lease.error();
  std::vector<ProducerStatus> producers;
  std::map<Uuid, size_t> places;
  auto nothing = [](Statement&) {};
  Status status = ForEachRow(
      (*lease)->db(),
      "SELECT p.uuid, r.run_id, r.attempt, r.rank, r.run, r.world_size, p.pid, p.uid, p.start_unix_ns, p.state, "
      "p.done_seq, p.lost_in_daemon, p.killed, p.saved_handled, p.saved_lost_in_daemon, p.saved_killed, p.attempted, "
      "p.dropped_total, p.drops, p.steps_total, p.steps_while_connected, p.coverage, p.incomplete_bundles, "
      "p.probe_cost, p.notes FROM producers p JOIN runs r ON r.id = p.run ORDER BY p.start_unix_ns, r.rank",
      nothing, [&](Statement& row) {
        producers.push_back(ProducerOfRow(row));
        places[producers.back().info.uuid] = producers.size() - 1;
      });
  if (!status) return status.error();
  status = ForEachRow((*lease)->db(),
                      "SELECT producer, name, phase, step, epoch, samples_seen, steps_due, steps_observed FROM roots "
                      "ORDER BY producer, position",
                      nothing, [&](Statement& row) {
                        auto place = places.find(UuidOf(row.Text(0)));
                        if (place == places.end()) return;
                        RootStatusInfo& root = producers[place->second].roots.emplace_back();
                        root.name = row.Text(1);
                        root.phase = row.Text(2);
                        root.step = row.Unsigned(3);
                        root.epoch = static_cast<uint32_t>(row.Int(4));
                        root.samples_seen = row.Unsigned(5);
                        root.steps_due = row.Unsigned(6);
                        root.steps_observed = row.Unsigned(7);
                      });
  if (!status) return status.error();
  return producers;
}

}  // namespace ikkuna::sinks
