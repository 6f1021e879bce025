// How many bytes of the emulated device's memory live, in all processes: its objects are memfds that carry their size
// in their name, and /proc tells which process has one mapped or open. Stateless.
#pragma once

#include <cstdint>
#include <string>

namespace kvsteward::emulation {

// The name of an object's memfd. Devices of other names do not count: KVSTEWARD_EMULATED_DEVICE, or "0".
std::string ObjectName(uint64_t bytes);

// The size of the object that the descriptor is; 0 if it is none of this device.
uint64_t ObjectBytes(int descriptor);

// Of the processes that this one may look at. Descriptors that are on their way through a socket are not seen.
uint64_t UsedBytes();

}  // namespace kvsteward::emulation
