// What the items of Evict and Observe hand to the engine, on its way in. `item` says where the item is, as
// "sequences[2].". Stateless.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "kvsteward/v1/steward.pb.h"
#include "service/device/evict_spec.h"

namespace kvsteward::rpc {

// A ready or done word; `field` is its name.
absl::Status ReadWord(const std::string& field, const v1::Word& word, std::optional<core::WordValue>& out);
// `written` is the item's written_tokens.
absl::Status ReadWindow(const std::string& item, const v1::Window& window, uint32_t written, core::EvictSpec& spec);
absl::Status ReadInputs(const std::string& item, const v1::Inputs& inputs, core::EvictSpec& spec);

}  // namespace kvsteward::rpc
