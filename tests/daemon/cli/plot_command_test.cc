// ikkuna plot: runs, ranks and attempts in one plot, axes, smoothing.
#include "tests/daemon/cli/recorded_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

class PlotCommandTest : public RecordedTest {};

TEST_F(PlotCommandTest, APlotIsDrawnWithoutATerminal) {
  scripted_.series[0].values[2] = Kept(20, 0.1);
  EXPECT_EQ(Out({"plot", "loss", "--ascii", "--width", "10", "--height", "3"}),
            "loss of fashion\n"
            "2.5 +*\n"
            "    |\n"
            "0.1 +         *\n"
            "    +----------\n"
            "     0  step 20\n"
            "loss: not drawn: 1 NaN or infinite, the first at 10\n"
            "* loss  last 0.1\n");
  EXPECT_THAT(Out({"plot", "loss"}), HasSubstr("⠁"));
  EXPECT_EQ(scripted_.last_read().max_points(), 344u);
  EXPECT_THAT(Out({"plot", "loss", "--x", "time", "--points", "7"}), HasSubstr("seconds since the start"));
  EXPECT_EQ(scripted_.last_read().max_points(), 7u);
  Out({"plot", "loss", "--from-step", "5", "--to-step", "15"});
  EXPECT_EQ(scripted_.last_read().step_min(), 5u);
  EXPECT_EQ(scripted_.last_read().step_max(), 15u);
}

TEST_F(PlotCommandTest, WhatIsSpecialAboutValuesIsSaidBelow) {
  scripted_.series[0].values = {Kept(0, 1, 4 | 16), Kept(10, 2, 16), Kept(20, 3)};
  scripted_.part_size = 1;
  EXPECT_THAT(Out({"plot", "loss", "--ascii"}),
              EndsWith("last 3\n"
                       "2 of these values have flags: weights_changed_outside 1, step_skipped 2; 'ikkuna read' shows "
                       "which.\n"));
  scripted_.series[0].values = {Kept(0, 1, v1::SAMPLE_FLAG_THINNED), Kept(20, 3, v1::SAMPLE_FLAG_RANKS_MISSING)};
  scripted_.series[0].thinned = 5;
  EXPECT_THAT(Out({"plot", "loss", "--ascii", "--smooth", "50"}),
              EndsWith("\n1 of these values has a flag: ranks_missing; 'ikkuna read' shows which.\n"
                       "Some of these steps were thinned away to keep to the store's maximum.\n"));
  EXPECT_THAT(Out({"top", "--once"}),
              AllOf(HasSubstr("\n1 of these values has a flag: ranks_missing; 'ikkuna read' shows which.\n"),
                    HasSubstr("\nSome of these steps were thinned away to keep to the store's maximum.\n")));
}

TEST_F(PlotCommandTest, AFewSeriesShareAPlotAndManyAreSaid) {
  EXPECT_THAT(Out({"plot", "activations_mean"}),
              HasSubstr("a fc1 activations_mean  last 0.625\nb fc0 activations_mean  last 0.75\n"));
  for (uint32_t id = 8; id < 28; ++id) {
    scripted_.series.push_back({MakeSeries(id, kRun, "m" + std::to_string(id), "", "many"), Values(1)});
  }
  std::string out = Out({"plot", "many"});
  EXPECT_THAT(out, HasSubstr("The first 12 of 20 series; --module and --rank pick others.\n"));
  EXPECT_THAT(out, HasSubstr("l m19 many"));
  EXPECT_THAT(out, Not(HasSubstr("m20")));
}

TEST_F(PlotCommandTest, RunsShareAPlotByTheirNames) {
  std::string out = Out({"plot", "loss", "--run", "fashion", "--run", "older", "--ascii"});
  EXPECT_THAT(out, HasSubstr("loss of fashion, older\n"));
  EXPECT_THAT(out, HasSubstr("a fashion: loss  last 0.125\nb older: loss  last 0.875\n"));
  // One run by two names is one line.
  EXPECT_THAT(Out({"plot", "loss", "--run", "fashion", "--run", "id-1", "--ascii"}),
              HasSubstr("\n* loss  last 0.125\n"));
  EXPECT_THAT(Run({"plot", "loss", "--run", "fashion", "--run", "oldre"}).err, HasSubstr("did you mean 'older'?"));
}

TEST_F(PlotCommandTest, RanksShareAPlot) {
  AddLoss(MakeKey("id-1", 0, 1), {Kept(0, 1), Kept(20, 7)});
  std::string out = Out({"plot", "loss", "--rank", "all", "--ascii"});
  EXPECT_THAT(out, HasSubstr("a loss (rank 0)  last 0.125\nb loss (rank 1)  last 7\n"));
  EXPECT_THAT(Out({"plot", "loss", "--rank", "1", "--ascii"}), HasSubstr("\n* loss  last 7\n"));
  EXPECT_THAT(Out({"plot", "loss", "--ascii"}), HasSubstr("\n* loss  last 0.125\n"));
}

TEST_F(PlotCommandTest, WhatIsOfAllRanksGoesAlongWithTheLowest) {
  const v1::RunKey all = MakeKey("id-1", 0, 4294967295u);
  scripted_.runs.push_back(MakeRun(all, "fashion", 1'700'000'000'000'000'000));
  scripted_.series.push_back({MakeSeries(1, all, "fc1", "weight", "weights_norm2"), {Kept(0, 1), Kept(20, 9)}});
  EXPECT_THAT(Out({"plot", "weights_norm2", "--ascii"}), HasSubstr("a fc1.weight weights_norm2 (rank 0)  last 0.5\n"
                                                                   "b fc1.weight weights_norm2 (all ranks)  last 9\n"));
}

TEST_F(PlotCommandTest, AResumedRunIsOneLine) {
  AddLoss(MakeKey("id-1", 1), {Kept(10, 3), Kept(40, 1)}, 0, 10);
  std::string out = Out({"plot", "loss", "--ascii"});
  EXPECT_THAT(out, HasSubstr("\n* loss  last 1\n"));
  EXPECT_THAT(out, Not(HasSubstr("NaN"))) << "step 10 of the first attempt was overtaken";
  EXPECT_TRUE(scripted_.last_read().merge_attempts());
  // Time goes on from the start of the first.
  out = Out({"plot", "loss", "--x", "time", "--ascii"});
  EXPECT_THAT(out, AllOf(HasSubstr("\n       0 "), HasSubstr(" 0.04\n")));
  EXPECT_THAT(Out({"plot", "loss", "--attempt", "0", "--ascii"}), HasSubstr("NaN or infinite, the first at 10"));
}

// It waits for its first step, or died before it.
TEST_F(PlotCommandTest, AResumedRunThatHasNoValueYetIsTheLineThatItGoesOnWith) {
  scripted_.runs.insert(scripted_.runs.begin(), MakeRun(MakeKey("id-1", 1), "fashion", 1'800'000'000'000'000'000));
  scripted_.runs[0].set_continues(0);
  scripted_.runs[0].set_line(0);
  scripted_.runs[0].set_start_step(1000);
  EXPECT_THAT(Out({"plot", "activations_mean", "--ascii"}), HasSubstr("a fc1 activations_mean  last 0.625\n"));
}

TEST_F(PlotCommandTest, SmoothingReadsAllValuesAndShowsThemToo) {
  scripted_.series[0].values.clear();
  for (uint64_t step = 0; step < 10'000; ++step)
    scripted_.series[0].values.push_back(Kept(step, step % 2 == 0 ? 0 : 2));
  std::string out = Out({"plot", "loss", "--smooth", "100", "--ascii", "--width", "40", "--height", "9"});
  EXPECT_EQ(scripted_.last_read().max_points(), 0u) << "the mean of extremes is no mean";
  EXPECT_THAT(out, HasSubstr("loss of fashion, smoothed over 100 values\n"));
  // Of 0 and 2 by turns the mean is 1, and the last is 2.
  EXPECT_THAT(out, HasSubstr("* loss  last 1.01, unsmoothed 2\n"));
  EXPECT_THAT(out, HasSubstr("1 +****"));
  EXPECT_THAT(out, HasSubstr("2 +...."));
  EXPECT_THAT(Out({"plot", "loss", "--smooth", "0", "--ascii"}), Not(HasSubstr("unsmoothed")));
}

TEST_F(PlotCommandTest, SamplesAreNoAxisOfARunThatCountsNone) {
  Outcome outcome = Run({"plot", "loss", "--x", "samples"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("'fashion' does not say how many samples go into its steps"));
  for (KeptValue& value : scripted_.series[0].values) value.samples_seen = 128 * (value.step + 1);
  EXPECT_THAT(Out({"plot", "loss", "--x", "samples", "--ascii"}),
              AllOf(HasSubstr("samples seen  "), HasSubstr(" 2688\n")));
  for (KeptValue& value : scripted_.series[0].values) value.epoch = static_cast<uint32_t>(value.step / 5);
  EXPECT_THAT(Out({"plot", "loss", "--x", "epoch", "--ascii"}), AllOf(HasSubstr(" epoch "), HasSubstr(" 4\n")));
}

TEST_F(PlotCommandTest, TheDaemonsOwnSeriesGoOverTime) {
  scripted_.series[0].series.mutable_key()->set_topic("daemon_lag");
  scripted_.runs[1].set_start_unix_ns(0);  // it has no start: many daemons one after another
  EXPECT_THAT(Out({"plot", "daemon_lag", "--run", "fashion", "--ascii", "--width", "40"}),
              AllOf(HasSubstr("\n       0 "), HasSubstr("seconds since the start"), HasSubstr(" 0.02\n")));
  EXPECT_THAT(Out({"plot", "daemon_lag", "--run", "fashion", "--ascii", "--x", "step"}), HasSubstr(" step "));
}

}  // namespace
}  // namespace ikkuna::test
