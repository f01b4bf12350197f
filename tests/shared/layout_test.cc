// The bytes themselves, as shared/layout.md lists them: a change here is a change of the format.
#include "shared/layout.h"

#include <gtest/gtest.h>

#include <cstring>

namespace ikkuna::shm {
namespace {

#define EXPECT_AT(type, field, offset) EXPECT_EQ(offsetof(type, field), size_t{offset}) << #type "." #field

TEST(Layout, Record) {
  EXPECT_EQ(sizeof(Record), 256u);
  EXPECT_AT(Record, seq, 0);
  EXPECT_AT(Record, time_ns, 8);
  EXPECT_AT(Record, global_step, 16);
  EXPECT_AT(Record, dropped_total, 24);
  EXPECT_AT(Record, module, 32);
  EXPECT_AT(Record, param, 36);
  EXPECT_AT(Record, epoch, 40);
  EXPECT_AT(Record, train_step, 44);
  EXPECT_AT(Record, pass, 48);
  EXPECT_AT(Record, call, 52);
  EXPECT_AT(Record, root, 54);
  EXPECT_AT(Record, tag, 55);
  EXPECT_AT(Record, type, 56);
  EXPECT_AT(Record, kind, 57);
  EXPECT_AT(Record, dtype, 58);
  EXPECT_AT(Record, ndim, 59);
  EXPECT_AT(Record, space, 60);
  EXPECT_AT(Record, layout, 61);
  EXPECT_AT(Record, flags, 62);
  EXPECT_AT(Record, sizes, 64);
  EXPECT_AT(Record, stats, 128);
  EXPECT_AT(Record, payload, 128);
  EXPECT_AT(Record, scalar, 128);
  EXPECT_AT(Record, text, 128);
  EXPECT_AT(PayloadRef, position, 0);
  EXPECT_AT(PayloadRef, bytes, 8);
  EXPECT_AT(PayloadRef, event, 16);
  EXPECT_AT(PayloadRef, device, 20);
  EXPECT_AT(InlineText, bytes, 4);
  EXPECT_AT(Record, marker, 128);
  EXPECT_AT(MarkerInfo, samples, 0);
  EXPECT_AT(MarkerInfo, dropped_kinds, 8);
  EXPECT_AT(MarkerInfo, first_pass, 16);
  EXPECT_AT(MarkerInfo, lowest_open, 20);
  EXPECT_AT(MarkerInfo, passes, 24);
  EXPECT_AT(MarkerInfo, flags, 28);
  EXPECT_AT(MarkerInfo, named, 32);
  EXPECT_EQ(sizeof(MarkerInfo), 128u);
}

TEST(Layout, Statistics) {
  EXPECT_EQ(sizeof(TensorStats), 128u);
  EXPECT_AT(TensorStats, n, 0);
  EXPECT_AT(TensorStats, finite_n, 8);
  EXPECT_AT(TensorStats, shift, 16);
  EXPECT_AT(TensorStats, sum1, 24);
  EXPECT_AT(TensorStats, sum2, 32);
  EXPECT_AT(TensorStats, sum3, 40);
  EXPECT_AT(TensorStats, sum4, 48);
  EXPECT_AT(TensorStats, abs_sum, 56);
  EXPECT_AT(TensorStats, square_sum, 64);
  EXPECT_AT(TensorStats, min, 72);
  EXPECT_AT(TensorStats, max, 80);
  EXPECT_AT(TensorStats, zeros, 88);
  EXPECT_AT(TensorStats, nans, 96);
  EXPECT_AT(TensorStats, positive_infinities, 104);
  EXPECT_AT(TensorStats, negative_infinities, 112);
}

TEST(Layout, PubHeader) {
  EXPECT_EQ(sizeof(PubHeader), 160u);
  EXPECT_AT(PubHeader, magic, 0);
  EXPECT_AT(PubHeader, abi_major, 8);
  EXPECT_AT(PubHeader, abi_minor, 10);
  EXPECT_AT(PubHeader, header_bytes, 12);
  EXPECT_AT(PubHeader, total_bytes, 16);
  EXPECT_AT(PubHeader, feature_bits, 24);
  EXPECT_AT(PubHeader, uuid, 32);
  EXPECT_AT(PubHeader, start_monotonic_ns, 48);
  EXPECT_AT(PubHeader, start_unix_ns, 56);
  EXPECT_AT(PubHeader, pid, 64);
  EXPECT_AT(PubHeader, record_bytes, 68);
  EXPECT_AT(PubHeader, stats_bytes, 72);
  EXPECT_AT(PubHeader, ring_slots, 76);
  EXPECT_AT(PubHeader, status_offset, 80);
  EXPECT_AT(PubHeader, status_bytes, 88);
  EXPECT_AT(PubHeader, registry_offset, 96);
  EXPECT_AT(PubHeader, registry_bytes, 104);
  EXPECT_AT(PubHeader, ring_offset, 112);
  EXPECT_AT(PubHeader, arena_offset, 120);
  EXPECT_AT(PubHeader, arena_bytes, 128);
  EXPECT_AT(PubHeader, ready, 136);
  EXPECT_AT(PubHeader, late_offset, 144);
  EXPECT_AT(PubHeader, late_bytes, 152);
}

TEST(Layout, PubStatus) {
  EXPECT_EQ(sizeof(PubStatus), 1408u);
  EXPECT_AT(PubStatus, clock_generation, 0);
  EXPECT_AT(PubStatus, clock_monotonic_ns, 8);
  EXPECT_AT(PubStatus, clock_unix_ns, 16);
  EXPECT_AT(PubStatus, state, 24);
  EXPECT_AT(PubStatus, attempt, 28);
  EXPECT_AT(PubStatus, command_done, 32);
  EXPECT_AT(PubStatus, registry_count, 64);
  EXPECT_AT(PubStatus, registry_used_bytes, 72);
  EXPECT_AT(PubStatus, registry_rejected, 80);
  EXPECT_AT(PubStatus, reserved, 128);
  EXPECT_AT(PubStatus, arena_tail, 136);
  EXPECT_AT(PubStatus, late_tail, 144);
  EXPECT_AT(PubStatus, attempted, 192);
  EXPECT_AT(PubStatus, dropped, 256);
  EXPECT_AT(PubStatus, probe_ns, 320);
  EXPECT_AT(PubStatus, step_ns, 328);
  EXPECT_AT(PubStatus, steps_timed, 336);
  EXPECT_AT(PubStatus, shift_tensor, 344);
  EXPECT_AT(PubStatus, shift_summary, 348);
  EXPECT_AT(PubStatus, shift_scalar, 352);
  EXPECT_AT(PubStatus, control, 360);
  EXPECT_AT(PubStatus, budget_ppm, 364);
  EXPECT_AT(PubStatus, fixed_ns, 368);
  EXPECT_AT(PubStatus, roots, 384);
  EXPECT_EQ(sizeof(RootStatus), 64u);
  EXPECT_AT(RootStatus, phase, 0);
  EXPECT_AT(RootStatus, epoch, 4);
  EXPECT_AT(RootStatus, step, 8);
  EXPECT_AT(RootStatus, samples_seen, 16);
  EXPECT_AT(RootStatus, last_step_ns, 24);
  EXPECT_AT(RootStatus, steps_due, 32);
}

TEST(Layout, RegistryEntry) {
  EXPECT_EQ(sizeof(EntryHeader), 40u);
  EXPECT_AT(EntryHeader, bytes, 0);
  EXPECT_AT(EntryHeader, type, 4);
  EXPECT_AT(EntryHeader, root, 6);
  EXPECT_AT(EntryHeader, id, 8);
  EXPECT_AT(EntryHeader, parent, 12);
  EXPECT_AT(EntryHeader, value, 16);
  EXPECT_AT(EntryHeader, flags, 24);
  EXPECT_AT(EntryHeader, dtype, 28);
  EXPECT_AT(EntryHeader, ndim, 29);
  EXPECT_AT(EntryHeader, name_bytes, 30);
  EXPECT_AT(EntryHeader, second_bytes, 32);
}

TEST(Layout, Ctl) {
  EXPECT_EQ(sizeof(CtlHeader), 80u);
  EXPECT_AT(CtlHeader, total_bytes, 16);
  EXPECT_AT(CtlHeader, feature_bits, 24);
  EXPECT_AT(CtlHeader, session_id, 32);
  EXPECT_AT(CtlHeader, state_offset, 40);
  EXPECT_AT(CtlHeader, demand_offset, 48);
  EXPECT_AT(CtlHeader, bitsets_offset, 56);
  EXPECT_AT(CtlHeader, commands_offset, 64);
  EXPECT_AT(CtlHeader, ready, 72);
  EXPECT_EQ(sizeof(CtlState), 512u);
  EXPECT_AT(CtlState, heartbeat_ns, 0);
  EXPECT_AT(CtlState, registry_seen, 8);
  EXPECT_AT(CtlState, committed_seq, 16);
  EXPECT_AT(CtlState, budget_ppm, 24);
  EXPECT_AT(CtlState, ring_head, 64);
  EXPECT_AT(CtlState, arena_head, 128);
  EXPECT_AT(CtlState, pool_head, 192);
  EXPECT_AT(CtlState, event_head, 320);
  EXPECT_AT(CtlState, demand_generation, 448);
  EXPECT_AT(CtlState, demand_count, 456);
  EXPECT_EQ(sizeof(DemandEntry), 32u);
  EXPECT_AT(DemandEntry, kinds, 0);
  EXPECT_AT(DemandEntry, period, 8);
  EXPECT_AT(DemandEntry, root, 12);
  EXPECT_AT(DemandEntry, tag, 14);
  EXPECT_AT(DemandEntry, level, 16);
  EXPECT_AT(DemandEntry, all_modules, 17);
  EXPECT_EQ(sizeof(Command), 64u);
  EXPECT_AT(Command, seq, 0);
  EXPECT_AT(Command, type, 8);
  EXPECT_AT(Command, module, 12);
  EXPECT_AT(Command, param, 16);
  EXPECT_AT(Command, root, 20);
  EXPECT_AT(Command, argument, 24);
}

TEST(Layout, MagicsReadAsText) {
  EXPECT_EQ(std::memcmp(&kPubMagic, "IKKNPUP1", 8), 0);
  EXPECT_EQ(std::memcmp(&kCtlMagic, "IKKNCTL1", 8), 0);
}

}  // namespace
}  // namespace ikkuna::shm
