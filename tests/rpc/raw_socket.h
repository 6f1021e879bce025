// The fd socket as a worker's end sees it, also for those that break its rules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "kvsteward/shm.h"

namespace kvsteward::rpc {

// Connects to an fd socket; an empty descriptor if nobody listens.
UniqueFd ConnectFdSocket(const std::string& path);
// Waits for a message; nothing at end of file, or if half a minute passes.
std::optional<kvs_fd_message> ReceiveFdMessage(int socket, UniqueFd* fd = nullptr);
// Whether the other side has hung up, or does within half a minute. Messages before that are dropped.
bool HungUp(int socket);
bool SendRaw(int socket, const void* bytes, size_t size);
kvs_fd_message FdMessage(uint32_t type);

}  // namespace kvsteward::rpc
