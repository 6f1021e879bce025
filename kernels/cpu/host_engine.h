// The host engine as the pipeline sees it: for backends that fall back on it.
#pragma once

#include <memory>

#include "kernels/plan/layer_engine.h"

namespace kvsteward::engine {

// As NewHostEngine.
std::unique_ptr<LayerEngine> NewHostLayerEngine(int threads);

}  // namespace kvsteward::engine
