// How subcommands print what a daemon says.
#pragma once

#include <string>
#include <vector>

#include "google/protobuf/message.h"

namespace kvsteward::app {

using Row = std::vector<std::string>;

// Columns as wide as their widest cell; the first is flush left, the others flush right. An empty line follows.
void PrintTable(const std::vector<Row>& rows);
// With every field, by its name in the proto file. REQUIRES: no field is an Any.
void PrintJson(const google::protobuf::Message& message);

}  // namespace kvsteward::app
