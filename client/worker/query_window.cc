#include "client/worker/query_window.h"

#include <algorithm>
#include <cstring>

namespace kvsteward::worker {

QueryWindow::QueryWindow(const ModelConfig& config, uint32_t rows, float* slot)
    : heads_(config.query_heads), head_dim_(config.head_dim), rows_(rows), slot_(slot) {}

void QueryWindow::Push(uint32_t layer, const float* queries, uint32_t tokens, uint32_t stride) {
  const uint32_t added = std::min(tokens, rows_);
  const size_t head_floats = static_cast<size_t>(rows_) * head_dim_;
  for (uint32_t head = 0; head < heads_; ++head) {
    float* rows = slot_ + (static_cast<size_t>(layer) * heads_ + head) * head_floats;
    std::memmove(rows, rows + static_cast<size_t>(added) * head_dim_,
                 static_cast<size_t>(rows_ - added) * head_dim_ * sizeof(float));
  }
  for (uint32_t i = 0; i < added; ++i) {
    Write(layer, rows_ - added + i, queries + static_cast<size_t>(tokens - added + i) * stride);
  }
}

void QueryWindow::ReplaceLast(uint32_t layer, const float* queries) { Write(layer, rows_ - 1, queries); }

void QueryWindow::Write(uint32_t layer, uint32_t row, const float* queries) {
  for (uint32_t head = 0; head < heads_; ++head) {
    float* rows = slot_ + (static_cast<size_t>(layer) * heads_ + head) * rows_ * head_dim_;
    std::memcpy(rows + static_cast<size_t>(row) * head_dim_, queries + static_cast<size_t>(head) * head_dim_,
                head_dim_ * sizeof(float));
  }
}

}  // namespace kvsteward::worker
