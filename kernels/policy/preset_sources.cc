#include "kernels/policy/preset_sources.h"

#include <algorithm>
#include <utility>

namespace kvsteward::engine {
namespace {

constexpr std::pair<std::string_view, std::string_view> kSources[] = {
    {"ahakv-ada", "arXiv 2506.03762, arXiv 2407.11550"},
    {"ahakv", "arXiv 2506.03762"},
    {"snapkv", "arXiv 2404.14469"},
    {"ada-snapkv", "arXiv 2407.11550"},
    {"pyramidkv", "arXiv 2406.02069"},
    {"ada-pyramidkv", "arXiv 2407.11550"},
    {"h2o", "arXiv 2306.14048"},
    {"tova", "arXiv 2401.06104"},
    {"streaming-llm", "arXiv 2309.17453"},
    {"nacl", "arXiv 2408.03675"},
    {"lava", "arXiv 2509.09754"},
    {"prefixkv", "arXiv 2412.03409"},
    {"defensivekv-lite", "arXiv 2510.13334"},
    {"defensivekv", "arXiv 2510.13334"},
    {"layer-defensivekv", "arXiv 2510.13334"},
    {"kv-compress", "arXiv 2410.00161"},
    {"keydiff", "arXiv 2504.15364"},
    {"expected-attention", "arXiv 2510.00636"},
    {"criticalkv", "arXiv 2502.03805"},
    {"fastgen", "arXiv 2310.01801"},
    {"task-kv", "arXiv 2501.15113"},
    {"csp", "arXiv 2412.04652"},
};

}  // namespace

std::string PresetSource(std::string_view name) {
  return std::string(std::ranges::find(kSources, name, [](const auto& source) { return source.first; })->second);
}

}  // namespace kvsteward::engine
