#include "daemon/model/names.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ikkuna {
namespace {

TEST(MatchesPatterns, KnowsStarQuestionMarkAndBarAlone) {
  EXPECT_TRUE(MatchesPatterns("", ""));
  EXPECT_TRUE(MatchesPatterns("", "a"));  // no pattern: everything
  EXPECT_TRUE(MatchesPatterns("*", ""));
  EXPECT_TRUE(MatchesPatterns("*", "features.0 > relu"));
  EXPECT_TRUE(MatchesPatterns("features.*", "features."));
  EXPECT_FALSE(MatchesPatterns("features.*", "features"));
  EXPECT_TRUE(MatchesPatterns("*.0", "a.0.0"));
  EXPECT_TRUE(MatchesPatterns("a*b*c", "aXbYbZc"));
  EXPECT_FALSE(MatchesPatterns("a*b*c", "aXbYbZ"));
  EXPECT_TRUE(MatchesPatterns("features.?", "features.1"));
  EXPECT_FALSE(MatchesPatterns("features.?", "features.10"));
  EXPECT_TRUE(MatchesPatterns("couch?", "couch\xc3\xa9")) << "a character, of however many bytes";
  EXPECT_FALSE(MatchesPatterns("couch??", "couch\xc3\xa9"));
  EXPECT_TRUE(MatchesPatterns("[ab]", "[ab]"));
  EXPECT_FALSE(MatchesPatterns("[ab]", "a"));
  EXPECT_TRUE(MatchesPatterns("a\\*", "a\\b"));
  EXPECT_FALSE(MatchesPatterns("Features", "features"));
  EXPECT_TRUE(MatchesPatterns("a|b.*", "b.1"));
  EXPECT_TRUE(MatchesPatterns("a|b.*", "a"));
  EXPECT_FALSE(MatchesPatterns("a|b.*", "a.1"));
  EXPECT_TRUE(MatchesPatterns("a|", ""));
}

TEST(MatchesPatterns, EvilPatternsEnd) {
  std::string pattern, text(50'000, 'a');
  for (int i = 0; i < 1'000; ++i) pattern += "*a";
  EXPECT_TRUE(MatchesPatterns(pattern, text));
  EXPECT_FALSE(MatchesPatterns(pattern + "b", text));
}

TEST(IsLiteral, OnlyWithoutPatternCharacters) {
  EXPECT_TRUE(IsLiteral("features.0"));
  EXPECT_FALSE(IsLiteral(""));
  EXPECT_FALSE(IsLiteral("features.*"));
  EXPECT_FALSE(IsLiteral("a?"));
  EXPECT_FALSE(IsLiteral("a|b"));
}

TEST(Listed, SaysHowManyMore) {
  const std::vector<std::string> names{"a", "b", "c"};
  EXPECT_EQ(Listed(names), "a, b, c");
  EXPECT_EQ(Listed(names, 3), "a, b, c");
  EXPECT_EQ(Listed(names, 2), "a, b and 1 more");
  EXPECT_EQ(Listed({}), "");
}

}  // namespace
}  // namespace ikkuna
