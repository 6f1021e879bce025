// What tests expect of refusals.
#pragma once

#include <gmock/gmock.h>

#include <string>
#include <variant>

#include "service/core/core.h"

namespace kvsteward::core {

// A reply that refuses the whole call with this code and a sentence that contains the text.
MATCHER_P2(Refused, code, text, "") {
  if (arg == nullptr) {
    *result_listener << "which waits";
    return false;
  }
  *result_listener << "which says: " << arg->outcome.message;
  return arg->outcome.code == code && arg->outcome.message.find(text) != std::string::npos &&
         std::holds_alternative<std::monostate>(arg->body);
}

// A sequence's outcome with this code and a sentence that contains the text.
MATCHER_P2(RefusedWith, code, text, "") {
  *result_listener << "which says: " << arg.message;
  return arg.code == code && arg.message.find(text) != std::string::npos;
}

}  // namespace kvsteward::core
