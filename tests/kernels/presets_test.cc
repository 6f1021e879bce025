// The presets, cell by cell, in the canonical form of a policy.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/policy/preset_sources.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

TEST(Presets, AreThese) {
  const std::vector<std::string> expected = {
      R"(name: ahakv-ada
window: 32
signal: {sg_softmax: {g_min: 1}}
accumulate: sum
group: mean
refine:
  - value_prior: {norm: l2sq, pool: 1, edge: valid, scale: mean}
protect: {sinks: 4, recent: 32}
layer: uniform
head: {ada_floor: {alpha: 0.2}}
select: top_k
)",
      R"(name: ahakv
window: 32
signal: {sg_softmax: {g_min: 0}}
accumulate: sum
group: mean
refine:
  - value_prior: {norm: l2sq, pool: 7, edge: valid, scale: max}
protect: {sinks: 0, recent: 32}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: snapkv
window: 32
signal: softmax
accumulate: sum
group: mean
refine:
  - max_pool: {pool: 7}
protect: {sinks: 0, recent: 32}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: ada-snapkv
window: 32
signal: softmax
accumulate: mean
group: mean
refine:
  - max_pool: {pool: 7}
protect: {sinks: 0, recent: 32}
layer: uniform
head: {ada_blend: {alpha: 0.2}}
select: top_k
)",
      R"(name: pyramidkv
window: 32
signal: softmax
accumulate: sum
group: mean
refine:
  - max_pool: {pool: 7}
protect: {sinks: 0, recent: 32}
layer: {pyramid: {beta: 20}}
head: uniform
select: top_k
)",
      R"(name: ada-pyramidkv
window: 32
signal: softmax
accumulate: mean
group: mean
refine:
  - max_pool: {pool: 7}
protect: {sinks: 0, recent: 32}
layer: {pyramid: {beta: 20}}
head: {ada_blend: {alpha: 0.2}}
select: top_k
)",
      R"(name: h2o
window: all
signal: softmax
accumulate: {running: {decay: 1}}
group: mean
refine: []
protect: {sinks: 0, recent: k / 2}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: tova
window: 1
signal: softmax
accumulate: sum
group: {mean: {span: layer}}
refine: []
protect: {sinks: 0, recent: 1}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: streaming-llm
signal: none
protect: {sinks: 4, recent: k - 4}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: nacl
window: 32
signal: softmax
accumulate: sum
group: mean
refine: []
protect: {sinks: 4, recent: 32}
layer: uniform
head: uniform
select: {top_k_random: {fraction: 0.37, seed: 0}}
)",
      R"(name: lava
window: 32
signal: softmax
accumulate: mean
group: {max: {place: after_refine}}
refine:
  - max_pool: {pool: 7}
  - value_scale: {norm: l1}
protect: {sinks: 0, recent: 32}
layer: entropy
head: {ada_blend: {alpha: 0.2}}
select: top_k
)",
      R"(name: prefixkv
window: 32
signal: softmax
accumulate: sum
group: {mean: {span: layer}}
refine: []
protect: {sinks: 4, recent: 1}
layer: equal_mass
head: uniform
select: top_k
)",
      R"(name: defensivekv-lite
window: 32
signal: softmax
accumulate: max
group: max
refine:
  - clamp_to_mean
  - value_prior: {norm: l2, pool: 1, edge: valid, scale: max}
protect: {sinks: 0, recent: 32}
layer: uniform
head: {ada_floor: {alpha: 0}}
select: top_k
)",
      R"(name: defensivekv
window: 32
signal: softmax
accumulate: {max: {row_pool: 5}}
group: max
refine:
  - clamp_to_mean
  - value_prior: {norm: l2, pool: 1, edge: valid, scale: heads}
protect: {sinks: 0, recent: 32, mass: 0.9}
layer: uniform
head: {ada_floor: {alpha: 0}}
select: top_k
)",
      R"(name: layer-defensivekv
window: 32
signal: softmax
accumulate: {max: {row_pool: 5}}
group: max
refine:
  - clamp_to_mean
  - value_prior: {norm: l2, pool: 1, edge: valid, scale: heads}
protect: {sinks: 0, recent: 32, mass: 0.9}
layer: global
head: {ada_floor: {alpha: 0}}
select: top_k
)",
      R"(name: kv-compress
window: 32
signal: {power: {exponent: 2}}
accumulate: sum
group: {sum: {place: after_refine}}
refine:
  - max_pool: {pool: 7}
protect: {sinks: 0, recent: 32}
layer: uniform
head: {ada_floor: {alpha: 0}}
select: block
)",
      R"(name: keydiff
signal: key_difference
refine: []
protect: {sinks: 0, recent: 0}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: expected-attention
signal: expected
group: mean
refine:
  - value_prior: {norm: l2, pool: 1, edge: valid, scale: none}
protect: {sinks: 4, recent: 0}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: criticalkv
window: 32
signal: softmax
accumulate: mean
group: mean
refine:
  - max_pool: {pool: 7}
protect: {sinks: 0, recent: 32}
layer: uniform
head: {ada_floor: {alpha: 0.2}}
select: {two_stage: {fraction: 0.5}}
)",
      R"(name: fastgen
window: 32
signal: softmax
accumulate: sum
group: mean
refine: []
protect: {sinks: 4, recent: 32}
layer: uniform
head: {cheapest: {mass: 0.95}}
select: top_k
)",
      R"(name: task-kv
window: 32
signal: softmax
accumulate: mean
group: mean
refine:
  - avg_pool: {pool: 7, edge: padded}
protect: {sinks: 4, recent: 32}
layer: uniform
head: {split: {full_heads: 2}}
select: top_k
)",
      R"(name: csp
window: 32
signal: softmax1
accumulate: sum
group: mean
refine: []
protect: {sinks: 0, recent: 32}
layer: uniform
head: uniform
select: {two_lists: {share: 0.1}}
)"};
  std::vector<std::string> presets;
  for (const std::string& name : PresetNames()) presets.push_back(PolicyToYaml(*Preset(name)));
  EXPECT_EQ(presets, expected);
}

TEST(Presets, NameTheirSources) {
  for (const std::string& name : PresetNames()) {
    EXPECT_EQ(SourceOf(name).preset, name);
    EXPECT_EQ(SourceOf(name).papers.substr(0, 6), "arXiv ") << name;
    EXPECT_FALSE(SourceOf(name).changes.empty()) << name;
  }
  EXPECT_EQ(SourceOf("ahakv-ada").papers, "arXiv 2506.03762, arXiv 2407.11550");
  EXPECT_EQ(SourceOf("csp").papers, "arXiv 2412.04652");
}

}  // namespace
}  // namespace kvsteward::engine
