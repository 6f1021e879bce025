#include "kernels/policy/preset_sources.h"

#include <algorithm>

namespace kvsteward::engine {
namespace {

constexpr PresetSource kSources[] = {
    {"ahakv-ada", "arXiv 2506.03762, arXiv 2407.11550",
     "gain never below the model's softmax, value prior not pooled and scaled by its mean, four sinks"},
    {"ahakv", "arXiv 2506.03762",
     "open in the paper and fixed here: pool 7 over what exists, group mean, k with the recent tokens, no sinks"},
    {"snapkv", "arXiv 2404.14469", "selects per kv head; the authors store what each query head selects"},
    {"ada-snapkv", "arXiv 2407.11550", "budgets rounded by largest remainder; the authors' total drifts"},
    {"pyramidkv", "arXiv 2406.02069",
     "window 32 and counted in the budget, an exact line; the authors run 8, and their integer steps drift"},
    {"ada-pyramidkv", "arXiv 2407.11550",
     "the pyramid is made anew for every eviction; the authors freeze the first prompt's"},
    {"h2o", "arXiv 2306.14048",
     "rows come by Observe, query heads are averaged; the authors have a score row per query head"},
    {"tova", "arXiv 2401.06104", "the newest token is protected; the paper may drop it"},
    {"streaming-llm", "arXiv 2309.17453",
     "keys keep the positions they were rotated to; the original rotates them to their place in the cache"},
    {"nacl", "arXiv 2408.03675",
     "32 causal proxy rows, 4 sinks, heads averaged, a seed; the authors: the last 1 % unmasked, 256 sinks"},
    {"lava", "arXiv 2509.09754", "all layers are scored before the first is cut; layer budgets are not damped by 20 %"},
    {"prefixkv", "arXiv 2412.03409",
     "shares from the sequence's last 32 rows; the paper sums all rows and profiles shares offline"},
    {"defensivekv-lite", "arXiv 2510.13334",
     "without row pooling, pins by attention mass and norms of projected values"},
    {"defensivekv", "arXiv 2510.13334",
     "norms of the values, not of projected ones; 32 recent tokens protected; pins within the uniform share"},
    {"layer-defensivekv", "arXiv 2510.13334",
     "norms of the values, not of projected ones; 32 recent tokens protected; pins within the uniform share"},
    {"kv-compress", "arXiv 2410.00161",
     "blocks compete within their layer, not over all; the pool runs before the group is summed"},
    {"keydiff", "arXiv 2504.15364",
     "all residents at once, not block by block; the score is 1 - cos, which ranks like -cos"},
    {"expected-attention", "arXiv 2510.00636",
     "the caller supplies the queries' moments, already averaged over the rotations to come"},
    {"criticalkv", "arXiv 2502.03805",
     "on SnapKV's scores, with Ada-KV's floor; the caller supplies the projected norms"},
    {"fastgen", "arXiv 2310.01801",
     "bounded by a budget, which the paper lacks; 95 % not verified in its text; sinks stand for special tokens"},
    {"task-kv", "arXiv 2501.15113",
     "two full heads in every layer, 4 sinks, 32 recent; the paper: falling with the layer, 16 and 256"},
    {"csp", "arXiv 2412.04652",
     "window and recent tokens 32, open in the paper; a token is kept once though both lists may hold it"},
};

}  // namespace

const PresetSource& SourceOf(std::string_view name) {
  return *std::ranges::find(kSources, name, &PresetSource::preset);
}

}  // namespace kvsteward::engine
