// The selection on the device against the host's, bit for bit: how many stay, keep bits, lists; random and adversarial
// scores, all layers in one launch sequence.
#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/select.h"
#include "kernels/plan/layer_budget.h"
#include "kernels/plan/select.h"
#include "tests/gpu/check.h"
#include "tests/kernels/random_scores.h"

namespace kvsteward::gpu_test {
namespace {

using engine::HeadBudget;
using engine::cuda::DeviceUnits;
using engine::cuda::Selected;
using engine::cuda::SelectRule;
using Rows = std::vector<std::vector<float>>;

// What stays.
struct Choice {
  std::vector<int32_t> kept;    // [units]
  std::vector<uint64_t> mask;   // all units' words
  std::vector<int32_t> list;    // of all units, each in its place
  std::vector<int64_t> offset;  // [units + 1] of tokens and of the list
  std::vector<int64_t> words;   // [units + 1] of the mask
};

Choice Empty(const Rows& rows) {
  Choice choice{.kept = std::vector<int32_t>(rows.size(), -7), .mask = {}, .list = {}, .offset = {0}, .words = {0}};
  for (const auto& row : rows) {
    choice.offset.push_back(choice.offset.back() + static_cast<int64_t>(row.size()));
    choice.words.push_back(choice.words.back() + static_cast<int64_t>(row.size() + 63) / 64);
  }
  choice.mask.assign(static_cast<size_t>(choice.words.back()), 0);
  choice.list.assign(static_cast<size_t>(choice.offset.back()), -1);
  return choice;
}

int64_t CandidatesOf(const std::vector<float>& row) {
  return std::ranges::count_if(row, [](float score) { return score >= 0; });
}

// The host's answer, layer by layer. `shares` [units] for kGiven.
Choice OnHost(const Rows& rows, size_t heads, HeadBudget head, const std::vector<int64_t>& totals,
              const std::vector<int64_t>& shares) {
  Choice choice = Empty(rows);
  engine::Policy policy;
  policy.head = head;
  for (size_t layer = 0; layer * heads < rows.size(); ++layer) {
    engine::LayerScores scores;
    scores.offsets = {0};
    int64_t marks = 0;
    std::vector<std::span<uint64_t>> masks;
    for (size_t u = layer * heads; u < (layer + 1) * heads; ++u) {
      scores.scores.insert(scores.scores.end(), rows[u].begin(), rows[u].end());
      scores.offsets.push_back(static_cast<int64_t>(scores.scores.size()));
      marks += static_cast<int64_t>(rows[u].size()) - CandidatesOf(rows[u]);
      masks.push_back(std::span(choice.mask)
                          .subspan(static_cast<size_t>(choice.words[u]),
                                   static_cast<size_t>(choice.words[u + 1] - choice.words[u])));
    }
    engine::LayerChoice of_layer{.layer = static_cast<int32_t>(layer),
                                 .total = totals[layer] + marks,
                                 .shares = {},
                                 .kept = std::span(choice.kept).subspan(layer * heads, heads),
                                 .masks = masks};
    if (!shares.empty()) of_layer.shares = std::span(shares).subspan(layer * heads, heads);
    engine::SelectLayer({}, policy, scores, engine::Serially, of_layer);
  }
  for (size_t u = 0; u < rows.size(); ++u) {
    auto place = choice.list.begin() + choice.offset[u];
    for (size_t j = 0; j < rows[u].size(); ++j) {
      const uint64_t word = choice.mask[static_cast<size_t>(choice.words[u]) + j / 64];
      if ((word >> (j % 64) & 1) != 0) *place++ = static_cast<int32_t>(j);
    }
  }
  return choice;
}

// The device's, twice into memory that held something else. `capacity_cut`: so many entries each unit's list lacks.
Choice OnDevice(const Rows& rows, size_t heads, SelectRule rule, const std::vector<int64_t>& totals,
                const std::vector<int64_t>& shares, int64_t capacity_cut) {
  Choice choice = Empty(rows);
  std::vector<float> scores;
  size_t longest = 0;
  for (const auto& row : rows) {
    scores.insert(scores.end(), row.begin(), row.end());
    longest = std::max(longest, row.size());
  }
  std::vector<int64_t> list_offset = {0};
  for (size_t first = 0; first < rows.size(); first += heads) {
    int64_t size = -capacity_cut;
    for (size_t u = first; u < first + heads; ++u) size += static_cast<int64_t>(rows[u].size());
    list_offset.push_back(list_offset.back() + std::max<int64_t>(0, size));
  }
  const DeviceArray<float> device_scores(scores);
  const DeviceArray<int64_t> offset(choice.offset), words(choice.words), lists(list_offset);
  const DeviceArray<int64_t> device_totals(totals), device_shares(shares);
  const DeviceUnits units = {.units = static_cast<int32_t>(rows.size()),
                             .kv_heads = static_cast<int32_t>(heads),
                             .longest = static_cast<int32_t>(longest),
                             .offset = offset.data()};
  rule.totals = device_totals.data();
  rule.shares = device_shares.data();
  const size_t workspace_bytes = engine::cuda::SelectWorkspaceBytes(units);
  std::vector<int32_t> first_list;
  for (int run = 0; run < 2; ++run) {
    const DeviceArray<uint8_t> workspace(std::vector<uint8_t>(workspace_bytes, run == 0 ? 0x5a : 0xff));
    const DeviceArray<int32_t> kept(std::vector<int32_t>(rows.size(), -7));
    const DeviceArray<uint64_t> mask(std::vector<uint64_t>(choice.mask.size() + 1, 0xa5a5a5a5a5a5a5a5u));
    const DeviceArray<int32_t> list(std::vector<int32_t>(static_cast<size_t>(list_offset.back()) + 1, -1));
    const Selected out = {.kept = kept.data(),
                          .mask = mask.data(),
                          .mask_offset = words.data(),
                          .list = list.data(),
                          .list_offset = lists.data()};
    CHECK_CUDA(engine::cuda::LaunchSelect(units, rule, device_scores.data(), out, workspace.data(), nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    std::vector<uint64_t> whole_mask = mask.Read();
    CHECK(whole_mask.back() == 0xa5a5a5a5a5a5a5a5u);  // nothing beyond the end
    whole_mask.pop_back();
    std::vector<int32_t> whole_list = list.Read();
    CHECK(whole_list.back() == -1);
    whole_list.pop_back();
    const std::vector<int32_t> read_kept = kept.Read();
    if (run == 0) {
      choice.kept = read_kept;
      choice.mask = whole_mask;
      first_list = whole_list;
    } else {
      CHECK(read_kept == choice.kept && whole_mask == choice.mask && whole_list == first_list);
    }
  }
  for (size_t layer = 0; layer + 1 < list_offset.size(); ++layer) {
    int64_t next = list_offset[layer];
    for (size_t u = layer * heads; u < (layer + 1) * heads; ++u) {
      for (int32_t i = 0; i < choice.kept[u] && next < list_offset[layer + 1]; ++i) {
        choice.list[static_cast<size_t>(choice.offset[u] + i)] = first_list[static_cast<size_t>(next++)];
      }
    }
    for (; next < list_offset[layer + 1]; ++next) CHECK(first_list[static_cast<size_t>(next)] == -1);
  }
  return choice;
}

bool Same(const Choice& host, const Choice& device, size_t heads, int64_t capacity_cut) {
  Choice wanted = host;
  for (size_t first = 0; first + 1 < wanted.offset.size(); first += heads) {  // what does not fit is not written
    int64_t room = std::max<int64_t>(0, wanted.offset[first + heads] - wanted.offset[first] - capacity_cut);
    for (size_t u = first; u < first + heads; ++u) {
      const int64_t fits = std::min<int64_t>(room, wanted.kept[u]);
      std::fill(wanted.list.begin() + wanted.offset[u] + fits, wanted.list.begin() + wanted.offset[u + 1], -1);
      room -= fits;
    }
  }
  return wanted.kept == device.kept && wanted.mask == device.mask && wanted.list == device.list;
}

void TestAll(const std::string& name, const Rows& rows, size_t heads, const std::vector<int64_t>& totals,
             int64_t alpha_ppm, int64_t capacity_cut = 0) {
  const auto compare = [&](const char* kind, const Choice& host, const Choice& device, size_t of_layer) {
    if (CHECK(Same(host, device, of_layer, capacity_cut))) return;
    std::printf("  %s of %s: %zu units, %zu heads, alpha %lld, total %lld\n", kind, name.c_str(), rows.size(), heads,
                static_cast<long long>(alpha_ppm), static_cast<long long>(totals[0]));
  };
  const auto test = [&](const char* kind, SelectRule::Kind rule, HeadBudget::Kind head) {
    compare(kind, OnHost(rows, heads, {.kind = head, .alpha_ppm = alpha_ppm}, totals, {}),
            OnDevice(rows, heads, {.kind = rule, .alpha_ppm = alpha_ppm}, totals, {}, capacity_cut), heads);
  };
  test("uniform", SelectRule::Kind::kUniform, HeadBudget::Kind::kUniform);
  test("ada_floor", SelectRule::Kind::kAdaFloor, HeadBudget::Kind::kAdaFloor);
  test("ada_blend", SelectRule::Kind::kAdaBlend, HeadBudget::Kind::kAdaBlend);

  // Shares from elsewhere: `global`, which the device also does itself, as one layer of all units.
  std::vector<engine::LayerScores> layers(rows.size() / heads);
  for (size_t u = 0; u < rows.size(); ++u) {
    engine::LayerScores& layer = layers[u / heads];
    if (layer.offsets.empty()) layer.offsets = {0};
    layer.scores.insert(layer.scores.end(), rows[u].begin(), rows[u].end());
    layer.offsets.push_back(static_cast<int64_t>(layer.scores.size()));
  }
  const int64_t total = std::accumulate(totals.begin(), totals.end(), int64_t{0});
  std::vector<int64_t> shares;
  for (const auto& of_layer : engine::GlobalShares(layers, alpha_ppm, total)) {
    shares.insert(shares.end(), of_layer.begin(), of_layer.end());
  }
  const Choice host = OnHost(rows, heads, {}, totals, shares);
  compare("given", host, OnDevice(rows, heads, {.kind = SelectRule::Kind::kGiven}, totals, shares, capacity_cut),
          heads);
  compare("global", host,
          OnDevice(rows, rows.size(), {.kind = SelectRule::Kind::kAdaFloor, .alpha_ppm = alpha_ppm}, {total}, {},
                   capacity_cut),
          rows.size());
}

// How much of each layer stays: nothing, everything, one, nearly everything, a tenth, or any part.
std::vector<int64_t> Totals(std::mt19937& random, const Rows& rows, size_t heads, uint32_t kind) {
  std::vector<int64_t> totals;
  for (size_t first = 0; first < rows.size(); first += heads) {
    int64_t all = 0;
    for (size_t u = first; u < first + heads; ++u) all += CandidatesOf(rows[u]);
    const int64_t choices[] = {0,
                               all,
                               std::min<int64_t>(1, all),
                               std::max<int64_t>(0, all - 1),
                               all / 10,
                               static_cast<int64_t>(random() % static_cast<uint64_t>(all + 1))};
    totals.push_back(choices[kind % 6]);
  }
  return totals;
}

void TestRandom() {
  std::mt19937 random(1);
  const size_t sizes[] = {0, 1, 2, 31, 32, 33, 63, 64, 65, 255, 257, 1000, 2047, 2048, 2049, 4096, 5003};
  const int64_t alphas[] = {0, 200'000, 1'000'000, 999'999, 1, 500'000};
  const size_t head_counts[] = {1, 2, 3, 8, 33};
  for (uint32_t round = 0; round < (Small() ? 12 : kEmulated ? 20 : 120); ++round) {
    const size_t heads = head_counts[random() % 5];
    const size_t layers = 1 + random() % 3;
    Rows rows;
    for (size_t u = 0; u < heads * layers; ++u) {
      const size_t size = round % 4 == 0 ? random() % 40 : sizes[random() % std::size(sizes)];
      const uint32_t kind = round % 3 == 0 ? random() % engine::kScoreKinds : round;
      rows.push_back(engine::DrawRow(random, size, kind));
    }
    const std::vector<int64_t> totals = Totals(random, rows, heads, random() % 6);
    TestAll("random " + std::to_string(round), rows, heads, totals, alphas[random() % 6], round % 5 == 0 ? 3 : 0);
  }
}

void TestAdversarial() {
  std::mt19937 random(2);
  const auto filled = [](size_t units, size_t size, auto&& value) {
    Rows rows(units, std::vector<float>(size));
    for (size_t u = 0; u < units; ++u) {
      for (size_t j = 0; j < size; ++j) rows[u][j] = value(u, j);
    }
    return rows;
  };
  const std::pair<const char*, Rows> cases[] = {
      {"all ties", filled(8, 3000, [](size_t, size_t) { return 0.125f; })},
      {"all zero", filled(4, 3000, [](size_t, size_t) { return 0.0f; })},
      {"one bin", filled(4, 3000,
                         [](size_t u, size_t j) {
                           return std::bit_cast<float>(0x3e000000u + static_cast<uint32_t>((j * 7919 + u) % 1021));
                         })},
      {"denormals", filled(4, 3000,
                           [](size_t u, size_t j) {
                             return std::bit_cast<float>(static_cast<uint32_t>((j * 104729 + u * 31) % 8'000'000));
                           })},
      {"greatest", filled(2, 2500, [](size_t, size_t j) { return j % 2 == 0 ? 3.4028235e38f : 1e38f; })},
      {"floors bind", filled(8, 2500, [](size_t u, size_t j) { return (u % 4 == 1 ? 1e6f : 1.0f) * (1 + j % 997); })},
      {"one head empty",
       filled(8, 2500, [](size_t u, size_t j) { return u % 4 == 2 ? -1.0f : static_cast<float>(j % 13); })},
      {"nobody competes", filled(8, 200, [](size_t, size_t) { return -1.0f; })},
      {"nothing is there", Rows(8)},
  };
  for (const auto& [name, rows] : cases) {
    for (const int64_t alpha : {int64_t{0}, int64_t{200'000}, int64_t{1'000'000}}) {
      if (Small() && alpha != 200'000) continue;
      for (uint32_t kind = Small() ? 4 : kEmulated ? 5 : 0; kind < 6; ++kind) {
        const size_t heads = rows.size() >= 8 ? 4 : rows.size();
        TestAll(name, rows, heads, Totals(random, rows, heads, kind), alpha);
      }
    }
  }
}

// More heads than the shared arrays hold, then a long unit beside short ones.
void TestLarge() {
  std::mt19937 random(3);
  Rows many;
  for (size_t u = 0; u < 300; ++u) many.push_back(engine::DrawRow(random, random() % 200, u));
  TestAll("many heads", many, 300, Totals(random, many, 300, 4), 200'000);
  TestAll("many heads", many, 150, Totals(random, many, 150, 5), 300'000);
  for (const size_t size : {size_t{131'075}, size_t{1} << 20}) {
    if (kEmulated && size > 200'000) continue;
    Rows rows;
    for (uint32_t u = 0; u < 3; ++u) rows.push_back(engine::DrawRow(random, u == 1 ? size : 100 * u, u == 1 ? 3 : u));
    std::ranges::replace_if(
        rows[1], [](float score) { return score < 0; }, 0.5f);
    TestAll("long", rows, 3, Totals(random, rows, 3, 4), 200'000);
  }
}

void TestRefusals() {
  const DeviceArray<int64_t> totals(std::vector<int64_t>{1});
  const SelectRule rule = {.totals = totals.data()};
  const DeviceArray<uint8_t> workspace(size_t{1} << 20);
  const auto launch = [&](const DeviceUnits& units, const SelectRule& with) {
    return engine::cuda::LaunchSelect(units, with, nullptr, {}, workspace.data(), nullptr);
  };
  CHECK(launch({.units = 3, .kv_heads = 2}, rule) == cudaErrorInvalidValue);
  CHECK(launch({.units = 2, .kv_heads = 2}, {}) == cudaErrorInvalidValue);
  CHECK(launch({}, rule) == cudaSuccess);
}

}  // namespace
}  // namespace kvsteward::gpu_test

int main() {
  kvsteward::gpu_test::TestRandom();
  kvsteward::gpu_test::TestAdversarial();
  if (!kvsteward::gpu_test::Small()) kvsteward::gpu_test::TestLarge();
  kvsteward::gpu_test::TestRefusals();
  return kvsteward::gpu_test::TestResult();
}
