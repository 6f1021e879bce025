// One well-formed call of every method of the workers' service.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kvsteward/v1/steward.grpc.pb.h"

namespace kvsteward::rpc {

using Call = std::function<grpc::Status(v1::Steward::Stub&, grpc::ClientContext&)>;

// By name, for a lease.
std::vector<std::pair<std::string, Call>> EveryMethod(const v1::Lease& lease);

}  // namespace kvsteward::rpc
