#include "daemon/cli/layer_table.h"

#include <gtest/gtest.h>

#include <limits>

namespace ikkuna::cli {
namespace {

v1::SeriesSummary Summary(const std::string& module, const std::string& param, const std::string& topic, double value) {
  v1::SeriesSummary summary;
  v1::SeriesKey* key = summary.mutable_series()->mutable_key();
  key->set_root("model");
  key->set_module(module);
  key->set_param(param);
  key->set_topic(topic);
  summary.set_last(value);
  summary.set_last_step(7);
  return summary;
}

v1::Module Named(const std::string& name) {
  v1::Module module;
  module.set_root("model");
  module.set_name(name);
  return module;
}

TEST(LayerTableTest, RowsFollowTheModelAndColumnsTheStep) {
  LayerTable table =
      MakeLayerTable({Summary("b", "weight", "weight_gradients_std", 4), Summary("b", "weight", "weights_norm_inf", 3),
                      Summary("b", "weight", "weights_mean", 2), Summary("a", "", "activations_mean", 1),
                      Summary("z", "", "activations_std", 9)},
                     {Named("a"), Named("b"), Named("unseen")});
  EXPECT_EQ(LayerTableText(table, Terminal(), 0),
            "              activations  weights         weight_gradients\n"
            "module  type  mean    std  mean  norm_inf               std\n"
            "a                1\n"
            "b                             2         3                 4\n"
            "z                       9\n");
  EXPECT_EQ(table.last_step, 7u);
}

TEST(LayerTableTest, AModuleWithSeveralParametersHasARowForEach) {
  LayerTable table =
      MakeLayerTable({Summary("lstm", "weight_ih_l0", "weights_mean", 1),
                      Summary("lstm", "weight_hh_l0", "weights_mean", 2), Summary("lstm", "", "activations_mean", 3)},
                     {});
  EXPECT_EQ(LayerTableText(table, Terminal(), 0),
            "                       activations  weights\n"
            "module           type         mean     mean\n"
            "lstm                             3\n"
            "  .weight_hh_l0                           2\n"
            "  .weight_ih_l0                           1\n");
}

TEST(LayerTableTest, WhatIsNoLayerIsLeftOut) {
  v1::SeriesSummary empty = Summary("a", "", "activations_mean", 0);
  empty.clear_last();
  LayerTable table = MakeLayerTable({Summary("", "", "loss", 1), Summary("a", "", "activations_skewness", 1),
                                     Summary("a", "weight", "weights_norm2@mine", 1), empty},
                                    {Named("a")});
  EXPECT_TRUE(table.rows.empty());
}

TEST(LayerTableTest, NaNIsShown) {
  LayerTable table =
      MakeLayerTable({Summary("a", "", "activations_mean", std::numeric_limits<double>::quiet_NaN())}, {});
  EXPECT_EQ(LayerTableJson(table)[0]["activations"]["mean"]["value"], "NaN");
}

}  // namespace
}  // namespace ikkuna::cli
