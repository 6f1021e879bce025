// LaunchPagedAppend and LaunchPagedAttention against naive loops in float64: what is seen counts, nothing else is read,
// and a row's result depends on the row alone.
#include <cmath>
#include <limits>

#include "client/worker/cuda/paged_append.h"
#include "client/worker/cuda/paged_attention.h"
#include "tests/gpu/paged_model.h"

namespace kvsteward::gpu_test {
namespace {

using worker::cuda::LaunchPagedAppend;
using worker::cuda::LaunchPagedAttention;
using worker::cuda::PagedAppendArgs;
using worker::cuda::PagedAttentionArgs;
using worker::cuda::PagedAttentionWorkspace;
using worker::cuda::PagedRows;

constexpr float kUnwritten = -7.0f;
constexpr int32_t kPadding = 8;  // numbers between two tokens' queries, and between what is attended

struct Shape {
  DType dtype = DType::kF32;
  int32_t dim = 16;
  int32_t tokens = 1;
  int32_t group = 1;
};

class Attention {
 public:
  // `seen`: of each row, by its last token.
  Attention(Random& random, const Shape& shape, const std::vector<int32_t>& seen)
      : shape_(shape),
        rows_(static_cast<int32_t>(seen.size())),
        model_(random, seen, 1, shape.dim, shape.dtype, 1.0f, 0),
        width_(rows_ * shape.group * shape.dim),
        queries_(static_cast<size_t>(shape.tokens) * static_cast<size_t>(width_ + kPadding)) {
    for (const int32_t n : seen) length_.push_back(n - shape.tokens + 1);
    Poison();
    for (size_t row = 0; row < seen.size(); ++row) {
      for (int32_t j = 0; j < seen[row]; ++j) {
        for (size_t i = 0; i < static_cast<size_t>(shape.dim); ++i) {
          StoreNumber(shape.dtype, model_.Key(row, j), i, 4 * (random.Uniform() - 0.5f));
          StoreNumber(shape.dtype, model_.Value(row, j), i, 2 * (random.Uniform() - 0.5f));
        }
      }
    }
    for (float& number : queries_) number = 4 * (random.Uniform() - 0.5f);
  }

  void Check() {
    const PagedOnDevice device(model_);
    const std::vector<float> out = Run(device, 0, rows_);
    CheckAgainstLoops(out);
    // Whatever else is in the launch, bit for bit the same.
    for (int32_t row = 0; row < rows_; ++row) {
      const std::vector<float> alone = Run(device, row, 1);
      bool same = true;
      for (int32_t t = 0; t < shape_.tokens; ++t) {
        const int32_t row_width = shape_.group * shape_.dim;
        for (int32_t i = 0; i < row_width; ++i) {
          const float one = alone[static_cast<size_t>(t * (width_ + kPadding) + i)];
          same = same && one == out[static_cast<size_t>(t * (width_ + kPadding) + row * row_width + i)];
        }
      }
      CHECK(same);
    }
  }

 private:
  void Poison() {
    for (size_t i = 0; i < model_.data.size() / engine::SizeOf(shape_.dtype); ++i) {
      StoreNumber(shape_.dtype, model_.data.data(), i, std::nanf(""));
    }
  }

  std::vector<float> Run(const PagedOnDevice& device, int32_t first, int32_t rows) const {
    const std::vector<int32_t> length(length_.begin() + first, length_.begin() + first + rows);
    const DeviceArray<int32_t> lengths(length);
    const DeviceArray<float> queries(queries_);
    const DeviceArray<float> out(std::vector<float>(queries_.size(), kUnwritten));
    PagedAttentionArgs args;
    args.cache = {.data = device.data.data(),
                  .block_bytes = model_.block_bytes,
                  .dtype = shape_.dtype,
                  .head_dim = shape_.dim,
                  .rows = rows,
                  .blocks = device.blocks.data() + static_cast<ptrdiff_t>(first) * model_.block_stride,
                  .block_stride = model_.block_stride,
                  .length = lengths.data()};
    args.longest = *std::max_element(length.begin(), length.end());
    args.tokens = shape_.tokens;
    args.group = shape_.group;
    args.queries = queries.data() + static_cast<ptrdiff_t>(first) * shape_.group * shape_.dim;
    args.query_stride = width_ + kPadding;
    args.out = out.data();
    args.out_stride = width_ + kPadding;
    const DeviceArray<std::byte> workspace(PagedAttentionWorkspace(args));
    args.workspace = reinterpret_cast<float*>(workspace.data());
    CHECK_CUDA(LaunchPagedAttention(args, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    return out.Read();
  }

  void CheckAgainstLoops(const std::vector<float>& out) {
    double worst = 0;
    bool padding_kept = true;
    for (int32_t t = 0; t < shape_.tokens; ++t) {
      const auto at = static_cast<size_t>(t * (width_ + kPadding));
      for (int32_t i = 0; i < kPadding; ++i) {
        padding_kept = padding_kept && out[at + static_cast<size_t>(width_ + i)] == kUnwritten;
      }
      for (int32_t head = 0; head < rows_ * shape_.group; ++head) {
        const size_t begin = at + static_cast<size_t>(head * shape_.dim);
        const auto row = static_cast<size_t>(head / shape_.group);
        const std::vector<double> expected = Attend(row, length_[row] + t, &queries_[begin]);
        for (size_t i = 0; i < expected.size(); ++i) {
          const double error = std::fabs(out[begin + i] - expected[i]);
          if (!(error <= worst)) worst = std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
        }
      }
    }
    CHECK(padding_kept);
    CHECK(worst < 2e-5);  // values are up to 1
  }

  std::vector<double> Attend(size_t row, int32_t visible, const float* query) {
    std::vector<double> scores;
    double highest = -std::numeric_limits<double>::infinity();
    for (int32_t j = 0; j < visible; ++j) {
      double score = 0;
      for (size_t i = 0; i < static_cast<size_t>(shape_.dim); ++i) {
        score += query[i] * LoadNumber(shape_.dtype, model_.Key(row, j), i);
      }
      scores.push_back(score / std::sqrt(static_cast<double>(shape_.dim)));
      highest = std::max(highest, scores.back());
    }
    double sum = 0;
    std::vector<double> out(static_cast<size_t>(shape_.dim), 0.0);
    for (int32_t j = 0; j < visible; ++j) {
      const double weight = std::exp(scores[static_cast<size_t>(j)] - highest);
      sum += weight;
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] += weight * LoadNumber(shape_.dtype, model_.Value(row, j), i);
      }
    }
    for (double& number : out) number = sum == 0 ? 0 : number / sum;
    return out;
  }

  Shape shape_;
  int32_t rows_;
  PagedModel model_;
  int32_t width_;
  std::vector<int32_t> length_;
  std::vector<float> queries_;
};

// New tokens go where they belong, rounded once, and nothing else changes.
void Append(Random& random, DType dtype, int32_t dim, int32_t tokens) {
  PagedModel model(random, {tokens, tokens + 14, tokens + 15, tokens + 16, tokens + 99}, 1, dim, dtype, 1.0f, 0);
  for (std::byte& byte : model.data) byte = static_cast<std::byte>(random.Next());
  const PagedOnDevice device(model);
  const auto width = static_cast<size_t>(model.units() * dim);
  std::vector<float> numbers(2 * width * static_cast<size_t>(tokens));  // keys and values of a token side by side
  std::vector<int32_t> length;
  for (float& number : numbers) number = 100 * (random.Uniform() - 0.5f);
  for (size_t row = 0; row < model.length.size(); ++row) {
    const int32_t before = model.length[row] - tokens;
    length.push_back(before + 1);
    for (int32_t t = 0; t < tokens; ++t) {
      const float* key = &numbers[2 * width * static_cast<size_t>(t) + row * static_cast<size_t>(dim)];
      for (size_t i = 0; i < static_cast<size_t>(dim); ++i) {
        StoreNumber(dtype, model.Key(row, before + t), i, key[i]);
        StoreNumber(dtype, model.Value(row, before + t), i, key[width + i]);
      }
    }
  }
  const DeviceArray<float> source(numbers);
  const DeviceArray<int32_t> lengths(length);
  PagedAppendArgs args;
  args.cache = {.data = device.data.data(),
                .block_bytes = model.block_bytes,
                .dtype = dtype,
                .head_dim = dim,
                .rows = model.units(),
                .blocks = device.blocks.data(),
                .block_stride = model.block_stride,
                .length = lengths.data()};
  args.tokens = tokens;
  args.keys = source.data();
  args.values = source.data() + width;
  args.token_stride = static_cast<int64_t>(2 * width);
  CHECK_CUDA(LaunchPagedAppend(args, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  CHECK(device.data.Read() == model.data);
}

void Refusals() {
  for (const int32_t dim : {0, 12, 264}) {
    PagedAttentionArgs args;
    args.cache.rows = 1;
    args.cache.head_dim = dim;
    CHECK(LaunchPagedAttention(args, nullptr) == cudaErrorInvalidValue);
  }
}

void RunAll() {
  Random random(5);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int32_t dim : {8, 16, 64, 80, 128, 136, 256}) {
      for (const int32_t group : {1, 2, 4, 7}) {
        if (kEmulated && group != 2 && (dim != 80 || dtype == DType::kF16)) continue;
        Attention(random, {dtype, dim, 1, group}, {0, 1, 15, 16, 17, 256, 257, 600}).Check();
      }
      Attention(random, {dtype, dim, 5, 2}, {5, 6, 20, 21, 22, 256, 258, 260, 261, 262}).Check();
      Append(random, dtype, dim, 1);
      Append(random, dtype, dim, 19);
    }
    Attention(random, {dtype, 16, 128, 2}, {128, 129, 200, 256, kEmulated ? 300 : 1024}).Check();
    Attention(random, {dtype, 128, 1, 4}, {kEmulated ? 2000 : 4096, 3, 900}).Check();
  }
  Refusals();
}

}  // namespace
}  // namespace kvsteward::gpu_test

int main() {
  kvsteward::gpu_test::RunAll();
  return kvsteward::gpu_test::TestResult();
}
