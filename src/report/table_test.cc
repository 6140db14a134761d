#include "report/table.h"

#include <gtest/gtest.h>

namespace megalodon::report {
namespace {

const Table kTable = {{"name", "size"}, {{"a<b", "1,000"}, {"long \"name\"", "5"}}};

TEST(Table, CsvQuotesWhatItMust) {
  EXPECT_EQ(to_csv(kTable), "name,size\na<b,\"1,000\"\n\"long \"\"name\"\"\",5\n");
  EXPECT_EQ(to_csv({{"a"}, {{"two\nlines"}}}), "a\n\"two\nlines\"\n");
}

TEST(Table, TextIsAligned) {
  EXPECT_EQ(to_text(kTable),
            "name          size\n"
            "a<b          1,000\n"
            "long \"name\"      5\n");
}

TEST(Table, HtmlIsEscaped) {
  EXPECT_EQ(to_html(kTable),
            "<table>\n<tr><th>name</th><th>size</th></tr>\n<tr><td>a&lt;b</td><td>1,000</td></tr>\n"
            "<tr><td>long &quot;name&quot;</td><td>5</td></tr>\n</table>\n");
  EXPECT_EQ(escape_html("<script>'&amp;'\"</script>"), "&lt;script&gt;&#39;&amp;amp;&#39;&quot;&lt;/script&gt;");
}

}  // namespace
}  // namespace megalodon::report
