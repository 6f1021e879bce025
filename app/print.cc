#include "app/print.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdio>

namespace kvsteward::app {

void PrintTable(const std::vector<Row>& rows) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      line += i == 0 ? row[i] + padding : "  " + padding + row[i];
    }
    std::puts(line.c_str());
  }
  std::puts("");
}

void PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  // Cannot fail for a message without Any.
  [[maybe_unused]] const auto printed = google::protobuf::util::MessageToJsonString(message, &json, options);
  std::puts(json.c_str());
}

}  // namespace kvsteward::app
