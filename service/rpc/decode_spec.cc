#include "service/rpc/decode_spec.h"

#include <vector>

#include "kvsteward/shm.h"
#include "service/rpc/checks.h"
#include "service/rpc/decode.h"

namespace kvsteward::rpc {
namespace {

std::vector<std::byte> ToBytes(const std::string& text) {
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

// An input of elements of `element_bytes`. How many it needs, only the sequence knows.
absl::Status ReadInput(const std::string& field, const v1::Input& input, size_t element_bytes,
                       core::EvictSpec::Input& out) {
  switch (input.data_case()) {
    case v1::Input::kOffset:
      if (input.offset() % KVS_ALIGNMENT != 0 || input.offset() >= kMaxInputBytes) {
        return Wrong(field + ".offset", std::to_string(input.offset()),
                     "a multiple of " + std::to_string(KVS_ALIGNMENT) + " below the input_bytes that Attach named");
      }
      out.offset = input.offset();
      break;
    case v1::Input::kInlineData: {
      const std::string& bytes = input.inline_data();
      if (bytes.empty() || bytes.size() > kMaxInlineBytes || bytes.size() % element_bytes != 0) {
        return Wrong(field + ".inline_data", std::to_string(bytes.size()) + " bytes long",
                     "elements of " + std::to_string(element_bytes) + " bytes, from one to " +
                         std::to_string(kMaxInlineBytes) + " bytes of them; larger inputs go to the inputs area");
      }
      out.is_inline = true;
      out.bytes = ToBytes(bytes);
      break;
    }
    default:
      return absl::InvalidArgumentError(field + " is empty; set offset or inline_data, or leave the input out");
  }
  out.given = true;
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadWord(const std::string& field, const v1::Word& word, std::optional<core::WordValue>& out) {
  if (absl::Status s = CheckRange(field + ".slot", word.slot(), 0, KVS_WORDS - 1); !s.ok()) return s;
  out = {.slot = word.slot(), .value = word.value()};
  return absl::OkStatus();
}

absl::Status ReadWindow(const std::string& item, const v1::Window& window, uint32_t written, core::EvictSpec& spec) {
  if (absl::Status s = CheckRange(item + "window.rows", window.rows(), 1, 4096); !s.ok()) return s;
  if (absl::Status s = ReadDType(item + "window.dtype", window.dtype(), spec.window_dtype); !s.ok()) return s;
  switch (window.queries_case()) {
    case v1::Window::kSlot:
      if (absl::Status s = CheckRange(item + "window.slot", window.slot(), 0, 1023); !s.ok()) return s;
      spec.window_slot = window.slot();
      break;
    case v1::Window::kInlineQueries: {
      const std::string& bytes = window.inline_queries();
      if (bytes.empty() || bytes.size() > kMaxInlineBytes) {
        return Wrong(item + "window.inline_queries", std::to_string(bytes.size()) + " bytes long",
                     "[layers, query_heads, rows, head_dim] elements in at most 1048576 bytes; larger windows go to a "
                     "window slot");
      }
      spec.window_inline = true;
      spec.inline_queries = ToBytes(bytes);
      break;
    }
    default:
      return absl::InvalidArgumentError(item + "window.queries is missing; set slot or inline_queries");
  }
  if (window.rows() > written) {
    return Wrong(item + "window.rows", std::to_string(window.rows()),
                 "at most written_tokens, " + std::to_string(written));
  }
  if (!window.positions().empty() && static_cast<uint32_t>(window.positions_size()) != window.rows()) {
    return Wrong(item + "window.positions", std::to_string(window.positions_size()) + " items long",
                 "empty or one position for each of the " + std::to_string(window.rows()) + " rows");
  }
  int64_t previous = -1;
  for (int row = 0; row < window.positions_size(); ++row) {
    const uint32_t position = window.positions(row);
    if (position <= previous || position >= written) {
      return Wrong(item + "window.positions[" + std::to_string(row) + "]", std::to_string(position),
                   "above the row's position before it and below written_tokens, " + std::to_string(written));
    }
    previous = position;
    spec.window_positions.push_back(static_cast<int32_t>(position));
  }
  spec.window_rows = static_cast<int32_t>(window.rows());
  return absl::OkStatus();
}

absl::Status ReadInputs(const std::string& item, const v1::Inputs& inputs, core::EvictSpec& spec) {
  struct Named {
    const char* name;
    bool sent;
    const v1::Input& input;
    size_t element_bytes;
    core::EvictSpec::Input& out;
  };
  const Named all[] = {
      {"classes", inputs.has_classes(), inputs.classes(), 1, spec.classes},
      {"scores", inputs.has_scores(), inputs.scores(), sizeof(float), spec.scores},
      {"projected_norms", inputs.has_projected_norms(), inputs.projected_norms(), sizeof(float), spec.projected_norms},
      {"query_mean", inputs.has_query_mean(), inputs.query_mean(), sizeof(float), spec.query_mean},
      {"query_covariance", inputs.has_query_covariance(), inputs.query_covariance(), sizeof(float),
       spec.query_covariance},
  };
  for (const Named& each : all) {
    if (!each.sent) continue;
    absl::Status s = ReadInput(item + "inputs." + each.name, each.input, each.element_bytes, each.out);
    if (!s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::rpc
