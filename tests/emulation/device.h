// The one emulated device, as the runtime and the driver both describe it. Stateless.
#pragma once

#include <cstddef>
#include <cstdlib>

namespace kvsteward::emulation {

inline constexpr char kDeviceName[] = "Emulated GPU";
inline constexpr unsigned char kDeviceUuid[16] = {0xe0, 0x00, 0x1a, 0x7e, 0xd0, 0x00, 0x40, 0x00,
                                                  0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01};

// The device's memory: KVSTEWARD_EMULATED_DEVICE_BYTES, or 16 GiB. Nothing is taken before it is used.
inline size_t DeviceBytes() {
  const char* const bytes = std::getenv("KVSTEWARD_EMULATED_DEVICE_BYTES");
  return bytes == nullptr ? size_t{16} << 30 : std::strtoull(bytes, nullptr, 0);
}

}  // namespace kvsteward::emulation
