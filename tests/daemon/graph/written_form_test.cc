#include "daemon/graph/written_form.h"

#include <gtest/gtest.h>

#include "daemon/model/names.h"

namespace ikkuna::graph {
namespace {

std::string ErrorOf(const std::string& text) {
  const auto parsed = ParseWritten(text);
  if (parsed.ok()) return "parsed";
  EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
  return parsed.error().text;
}

TEST(WrittenForm, NameInputsOptions) {
  const auto parsed =
      ParseWritten(" norm ( layer_gradients , order = 2,subsample=10, module=features.0 > relu ,as=head ) ");
  ASSERT_TRUE(parsed.ok()) << parsed.error().text;
  ASSERT_EQ(parsed.value().size(), 1u);
  const WrittenSubscriber& one = parsed.value()[0];
  EXPECT_EQ(one.name, "norm");
  EXPECT_EQ(one.inputs, std::vector<std::string>{"layer_gradients"});
  EXPECT_EQ(one.options, (std::vector<std::pair<std::string, std::string>>{
                             {"order", "2"}, {"subsample", "10"}, {"module", "features.0 > relu"}, {"as", "head"}}));
}

TEST(WrittenForm, WithAndWithoutParentheses) {
  for (const char* text : {"loss", "loss()", " loss ( ) ", "loss;", ";;loss;"}) {
    const auto parsed = ParseWritten(text);
    ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.error().text;
    ASSERT_EQ(parsed.value().size(), 1u);
    EXPECT_EQ(parsed.value()[0].name, "loss");
    EXPECT_TRUE(parsed.value()[0].inputs.empty());
  }
}

TEST(WrittenForm, Several) {
  const auto parsed = ParseWritten("mean(weights); ratio(weight_updates, weights)\n;loss");
  ASSERT_TRUE(parsed.ok());
  ASSERT_EQ(parsed.value().size(), 3u);
  EXPECT_EQ(parsed.value()[1].inputs, (std::vector<std::string>{"weight_updates", "weights"}));
}

TEST(WrittenForm, QuotedValues) {
  const auto parsed = ParseWritten("mean(weights, module=\"a,b(c)=;\"\"d\"\" \" , tag = \"test\")");
  ASSERT_TRUE(parsed.ok()) << parsed.error().text;
  EXPECT_EQ(parsed.value()[0].options[0].second, "a,b(c)=;\"d\" ");
  EXPECT_EQ(parsed.value()[0].options[1].second, "test");
}

TEST(WrittenForm, FormatParsesBackToTheSame) {
  for (const char* value : {"plain", "features.0 > relu", "a,b", " lead", "trail ", "quo\"te", "(x)", "k=v", "a;b"}) {
    const WrittenSubscriber written{"norm", {"weights"}, {{"module", value}, {"order", "2"}}};
    const auto parsed = ParseWritten(FormatWritten(written));
    ASSERT_TRUE(parsed.ok()) << FormatWritten(written) << ": " << parsed.error().text;
    EXPECT_EQ(parsed.value()[0].options, written.options);
    EXPECT_EQ(FormatWritten(parsed.value()[0]), FormatWritten(written));
  }
  EXPECT_EQ(FormatWritten({"loss", {}, {}}), "loss()");
}

TEST(WrittenForm, EveryWayToBreakOffHasItsMessage) {
  EXPECT_EQ(ErrorOf(""), "no subscriber given; write for example 'mean(weights)' or 'norm(layer_gradients, order=1)'");
  EXPECT_EQ(ErrorOf(" ; "), ErrorOf(""));
  EXPECT_EQ(ErrorOf("mean(weights"), "cannot read 'mean(weights': the closing ')' is missing");
  EXPECT_EQ(ErrorOf("mean("), "cannot read 'mean(': the closing ')' is missing");
  EXPECT_EQ(ErrorOf("mean(weights; loss"),
            "cannot read 'mean(weights; loss': the closing ')' is missing, at character 13");
  EXPECT_EQ(ErrorOf("mean(weights) loss"),
            "cannot read 'mean(weights) loss': a ';' between two subscribers is missing, at character 15");
  EXPECT_EQ(ErrorOf("mean(weights))"),
            "cannot read 'mean(weights))': a ';' between two subscribers is missing, at character 14");
  EXPECT_EQ(ErrorOf("(weights)"),
            "cannot read '(weights)': a subscriber begins with the name of a metric, at character 1");
  EXPECT_EQ(ErrorOf("mean(,weights)"), "cannot read 'mean(,weights)': an argument is missing, at character 6");
  EXPECT_EQ(ErrorOf("mean(weights,)"), "cannot read 'mean(weights,)': an argument is missing, at character 14");
  EXPECT_EQ(ErrorOf("norm(weights, order=)"),
            "cannot read 'norm(weights, order=)': a value after 'order=' is missing, at character 21");
  EXPECT_EQ(ErrorOf("norm(weights, =2)"),
            "cannot read 'norm(weights, =2)': a name before '=' is missing, at character 17");
  EXPECT_EQ(ErrorOf("norm(weights, order=2, order=3)"),
            "cannot read 'norm(weights, order=2, order=3)': 'order' is given twice, at character 31");
  EXPECT_EQ(ErrorOf("norm(order=2, weights)"),
            "cannot read 'norm(order=2, weights)': 'weights' stands after an option; kinds and topics come first, then "
            "name=value, at character 22");
  EXPECT_EQ(ErrorOf("mean(weights, module=\"x)"),
            "cannot read 'mean(weights, module=\"x)': the closing '\"' is missing");
  EXPECT_EQ(ErrorOf("mean(a(b))"), "cannot read 'mean(a(b))': a ',' or ')' is missing, at character 7");
  EXPECT_EQ(ErrorOf(std::string(kMaxWrittenBytes + 1, 'x')),
            "a text of 65537 bytes is too long for subscribers; at most 65536");
}

TEST(WrittenForm, HostileTextsEndInAnErrorNotInAFault) {
  std::string text;
  for (unsigned i = 0; i < 20'000; ++i) {
    text += ",()=;\"a \n"[i * 2654435761u >> 8 & 7];
    if (i % 50 == 0) {
      static_cast<void>(ParseWritten(text));
      text.erase(0, text.size() > 300 ? 200 : 0);
    }
  }
}

TEST(Names, Patterns) {
  EXPECT_TRUE(MatchesPatterns("", "anything"));
  EXPECT_TRUE(MatchesPatterns("*", ""));
  EXPECT_TRUE(MatchesPatterns("features.*", "features.0.conv"));
  EXPECT_FALSE(MatchesPatterns("features.*", "features"));
  EXPECT_TRUE(MatchesPatterns("f?1|head", "fc1"));
  EXPECT_TRUE(MatchesPatterns("f?1|head", "head"));
  EXPECT_FALSE(MatchesPatterns("f?1|head", "heads"));
  EXPECT_TRUE(MatchesPatterns("*a*b*c*", "xxaxxbxxcxx"));
  EXPECT_FALSE(MatchesPatterns("*a*b*c", "xxaxxbxxcxx"));
  EXPECT_TRUE(MatchesPatterns("a[0]", "a[0]"));
  EXPECT_FALSE(MatchesPatterns(std::string(100, '*') + "b", std::string(10'000, 'a')));  // and at once
  EXPECT_TRUE(IsLiteral("model1"));
  EXPECT_FALSE(IsLiteral("model?"));
  EXPECT_FALSE(IsLiteral("a|b"));
  EXPECT_FALSE(IsLiteral(""));
}

}  // namespace
}  // namespace ikkuna::graph
