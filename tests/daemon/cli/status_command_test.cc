// ikkuna status, top: by their output.
#include "tests/daemon/cli/recorded_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

void AddCount(google::protobuf::RepeatedPtrField<v1::Count>* counts, const std::string& reason, uint64_t count) {
  v1::Count* one = counts->Add();
  one->set_reason(reason);
  one->set_count(count);
}

v1::Producer MakeProducer() {
  v1::Producer producer;
  *producer.mutable_run() = MakeKey("id-1");
  producer.set_run_name("fashion");
  producer.set_pid(77);
  producer.set_world_size(1);
  producer.set_start_unix_ns(1'700'000'000'000'000'000);
  producer.set_state(v1::PRODUCER_STATE_RUNNING);
  v1::Accounting* accounting = producer.mutable_accounting();
  accounting->set_attempted(1000);
  accounting->set_handled(900);
  accounting->set_dropped(90);
  AddCount(accounting->mutable_drops(), "ring_full", 80);
  AddCount(accounting->mutable_drops(), "contended", 10);
  accounting->set_lost_in_daemon(6);
  accounting->set_killed(1);
  accounting->set_in_flight(3);
  producer.set_steps_total(2000);
  producer.set_steps_while_connected(1500);
  producer.set_coverage(0.75);
  AddCount(producer.mutable_missing(), "withheld", 2);
  producer.set_probe_cost(0.0123);
  producer.set_budget(0.01);
  producer.mutable_period_factors()->set_tensor(4);
  producer.set_ring_slots(16384);
  producer.set_arena_bytes(1 << 20);
  producer.set_allow_control(true);
  v1::RootStatus* root = producer.add_roots();
  root->set_name("model");
  root->set_phase(v1::PHASE_TRAIN);
  root->set_step(1999);
  root->set_epoch(3);
  root->set_samples_seen(256000);
  root->set_steps_due(100);
  root->set_steps_observed(98);
  root->set_steps_per_second(38.5);
  producer.add_notes("no pidfd here");
  return producer;
}

class StatusTest : public RecordedTest {
 protected:
  void SetUp() override {
    v1::GetStatusResponse& status = scripted_.status;
    status.set_version("1.2.3");
    status.set_pid(42);
    status.set_data_directory("/data");
    status.set_tensorboard_directory("/data/tb");
    status.mutable_store()->set_bytes(2048);
    status.mutable_store()->set_runs(3);
    status.mutable_store()->set_file_system("ext4");
    status.mutable_store()->set_free_bytes(uint64_t{3} << 30);
    v1::Sink* sink = status.add_sinks();
    sink->set_name("store");
    sink->set_offered(1000);
    sink->set_written(990);
    sink->set_dropped(4);
    sink->set_waiting(6);
    sink->set_lag_seconds(0.5);
    AddCount(sink->mutable_drops(), "repeated", 4);
    *status.add_producers() = MakeProducer();
    status.set_health_run("ikkuna-daemon");
    status.set_caller("uid:1000");
    status.set_role(v1::ROLE_READ);
    for (const auto& [text, seconds] : std::map<std::string, double>{{"loss()", 1}, {"norm(weights)", 3}}) {
      v1::Subscriber& one = scripted_.subscribers.emplace_back();
      one.set_text(text);
      one.set_cpu_seconds(seconds);
    }
    RecordedTest::SetUp();
  }
  v1::Producer& producer() { return *scripted_.status.mutable_producers(0); }
};

TEST_F(StatusTest, ExplainsWhatDoesNotAddUpForAReader) {
  EXPECT_THAT(Out({"status"}), HasSubstr("complete 98\n")) << "two may be under way";
  producer().mutable_roots(0)->set_steps_observed(97);
  EXPECT_THAT(Out({"status"}), HasSubstr("complete 97 (the others lack records, or "));
  producer().mutable_accounting()->set_dropped(0);
  producer().mutable_accounting()->set_lost_in_daemon(0);
  producer().mutable_accounting()->set_killed(0);
  EXPECT_THAT(Out({"status"}), HasSubstr("complete 97\n")) << "a thread each may be under way";
  producer().set_state(v1::PRODUCER_STATE_DIED);
  EXPECT_THAT(Out({"status"}), HasSubstr("complete 97 (the others lack records, or "));
  producer().set_state(v1::PRODUCER_STATE_RUNNING);
  // More than the budget at steps of which nothing is asked: thinning is no way out.
  EXPECT_THAT(Out({"status"}), HasSubstr("1.23% of the step time, budget 1.00%\n"));
  producer().set_probe_cost_fixed(0.011);
  EXPECT_THAT(Out({"status"}), HasSubstr("budget 1.00%; 1.10% go to steps of which nothing is asked"));
  producer().set_budget(0);
  EXPECT_THAT(Out({"status"}), HasSubstr("1.23% of the step time, no budget\n"));
  EXPECT_THAT(Out({"status"}), HasSubstr("control     stop is allowed; this trainer cannot freeze\n"));
  producer().set_allow_freeze(true);
  EXPECT_THAT(Out({"status"}), HasSubstr("control     freeze and stop are allowed\n"));
}

TEST_F(StatusTest, SaysWhatRunsWhatItCostsAndWhatWasLost) {
  std::string out = Out({"status"});
  EXPECT_THAT(out, HasSubstr("ikkuna-daemon 1.2.3  pid 42"));
  EXPECT_THAT(out, HasSubstr("/data, 2.0 KiB, 3 files of runs, on ext4 with 3.0 GiB free; 0 series\n"));
  EXPECT_THAT(out, HasSubstr("store: 1,000 values = 990 written + 4 dropped + 6 that wait (the oldest for 0.5 s); "
                             "dropped: repeated 4\n"));
  EXPECT_THAT(out, HasSubstr("fashion  running  (id id-1, attempt 0, rank 0 of 1, pid 77, since 2023-11-14 22:13:20)"));
  EXPECT_THAT(
      out,
      HasSubstr(
          "model: step 1,999, epoch 3, train, 38.5 steps/s, 256,000 samples seen; asked for 100 steps, complete 98\n"));
  EXPECT_THAT(out, HasSubstr("75.0% of the steps (1,500 of 2,000)"));
  EXPECT_THAT(out, HasSubstr("ring_full 80, contended 10"));
  EXPECT_THAT(out, HasSubstr("1.23% of the step time, budget 1.00%"));
  EXPECT_THAT(out, HasSubstr("of the steps asked for, tensors every 4th, statistics all, scalars all\n"));
  EXPECT_THAT(out,
              HasSubstr("subscribers 2, computing for 4.0 s so far, the longest norm(weights) with 75.0% of it\n"));
  EXPECT_THAT(out, HasSubstr("you         uid:1000, may read everything and control what is yours\n"));
  EXPECT_THAT(out, HasSubstr("own health  kept as series: ikkuna series --run ikkuna-daemon\n"));
  EXPECT_THAT(out, HasSubstr("1,000 records = 900 handled + 90 dropped + 6 lost in daemon + 1 killed + 3 in flight\n"));
  EXPECT_THAT(out, HasSubstr("note        no pidfd here"));
  EXPECT_THAT(out, HasSubstr("missing     withheld 2; 'ikkuna why' says of what\n"));
  EXPECT_THAT(out, Not(HasSubstr("\x1b")));
}

TEST_F(StatusTest, AStoreThatPausesIsSaid) {
  EXPECT_THAT(Out({"status"}), Not(HasSubstr("recording pauses")));
  scripted_.status.mutable_store()->set_paused(true);
  AddCount(scripted_.status.mutable_store()->mutable_dropped(), "disk", 12);
  std::string out = Out({"status"});
  EXPECT_THAT(out, HasSubstr("recording pauses: the disk is too full"));
  EXPECT_THAT(out, HasSubstr("not kept: disk 12\n"));
}

TEST_F(StatusTest, JsonHoldsTheSame) {
  json status = json::parse(Out({"status", "--json"}));
  EXPECT_EQ(status["version"], "1.2.3");
  EXPECT_EQ(status["producers"][0]["state"], "running");
  EXPECT_EQ(status["producers"][0]["accounting"]["attempted"], 1000);
  EXPECT_EQ(status["producers"][0]["accounting"]["drops"][0]["reason"], "ring_full");
  EXPECT_EQ(status["producers"][0]["roots"][0]["phase"], "train");
}

TEST_F(StatusTest, OneRunCanBeChosen) {
  EXPECT_THAT(Out({"status", "--run", "fashion"}), HasSubstr("pid 77"));
  EXPECT_THAT(Out({"status", "--run", "id-1", "--rank", "0"}), HasSubstr("pid 77"));
  EXPECT_THAT(Out({"status", "--run", "latest"}), HasSubstr("pid 77"));
  Outcome outcome = Run({"status", "--run", "other"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err,
            "ikkuna: the daemon knows no producer of a run 'other'; 'ikkuna runs' lists what is recorded\n");
  EXPECT_EQ(Run({"status", "--run", "fahsion"}).err,
            "ikkuna: the daemon knows no producer of a run 'fahsion'; did you mean 'fashion'?\n");
  EXPECT_EQ(Run({"status", "--run", "fashion", "--rank", "1"}).err,
            "ikkuna: no producer has that run, attempt and rank\n");
}

TEST_F(StatusTest, TopShowsItWithLossAndLayers) {
  std::string out = Out({"top", "--once"});
  EXPECT_THAT(out, HasSubstr("fashion  running"));
  EXPECT_THAT(out, HasSubstr("loss: not drawn: 1 NaN or infinite"));
  EXPECT_THAT(out, HasSubstr("fc1     Linear"));
}

TEST_F(StatusTest, OrdinalsAreThoseOfTheLanguage) {
  for (const auto& [factor, text] :
       std::map<uint32_t, std::string>{{2, "2nd"}, {8, "8th"}, {512, "512th"}, {32, "32nd"}}) {
    producer().mutable_period_factors()->set_tensor(factor);
    EXPECT_THAT(Out({"status"}), HasSubstr("tensors every " + text + ","));
  }
}

TEST_F(StatusTest, OfOneThereIsNoPlural) {
  v1::Sink* sink = scripted_.status.mutable_sinks(0);
  sink->set_offered(1);
  sink->set_waiting(1);
  sink->set_events_dropped(1);
  sink->set_failures(1);
  scripted_.status.mutable_store()->set_runs(1);
  scripted_.status.mutable_queue()->set_threads(1);
  scripted_.status.mutable_queue()->set_waiting(1);
  scripted_.status.mutable_queue()->set_memory_refused(1);
  producer().mutable_accounting()->set_attempted(1);
  producer().mutable_roots(0)->set_samples_seen(1);
  producer().mutable_roots(0)->set_steps_due(1);
  const std::string out = Out({"status"});
  for (const char* text : {"store: 1 value = ", " 1 that waits (", "; 1 event dropped", "; failed 1 time\n",
                           "1 file of runs", "1 thread at nice", "1 job waits;", "no room 1 time (",
                           "1 record = ", "1 sample seen", "asked for 1 step, complete"}) {
    EXPECT_THAT(out, HasSubstr(text));
  }
}

TEST_F(StatusTest, AnIdentityThatDoesNotAddUpIsSaid) {
  producer().mutable_accounting()->set_killed(0);
  EXPECT_THAT(Out({"status"}), HasSubstr("(does not add up: 999)"));
  scripted_.status.clear_producers();
  EXPECT_THAT(Out({"status"}), HasSubstr("No trainer has connected yet."));
}

TEST_F(StatusTest, OfAProducerThatIsGoneOnlyWhatWasCountedIsShown) {
  producer().set_state(v1::PRODUCER_STATE_FINISHED);
  producer().set_ring_slots(0);
  producer().set_budget(0);
  std::string out = Out({"status"});
  EXPECT_THAT(out, HasSubstr("1,000 records = 900 handled"));
  EXPECT_THAT(out, HasSubstr("1.23% of the step time\n"));
  EXPECT_THAT(out, Not(HasSubstr("buffers")));
}

TEST_F(StatusTest, NamesOfPeersDoNotReachTheTerminalRaw) {
  producer().set_run_name("fa\x1b[2Jshion\n");
  producer().mutable_roots(0)->set_name("mo\adel");
  producer().add_notes("line\nfeed");
  scripted_.status.set_data_directory("/da\x1bta");
  std::string out = Out({"status"});
  EXPECT_THAT(out, HasSubstr("fa\\x1b[2Jshion\\n  running"));
  EXPECT_THAT(out, HasSubstr("mo\\x07del: step"));
  EXPECT_THAT(out, HasSubstr("line\\nfeed"));
  EXPECT_THAT(out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(out, Not(HasSubstr("\a")));
}

}  // namespace
}  // namespace ikkuna::test
