#include "service/rpc/socket_path.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace kvsteward::rpc {
namespace {

absl::Status Failed(const std::string& what) { return absl::UnavailableError(what + ": " + std::strerror(errno)); }

sockaddr_un Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Who holds the lock, as it wrote itself; empty if it has not yet.
std::string HolderOf(int lock) {
  char text[32];
  const ssize_t got = pread(lock, text, sizeof(text), 0);
  std::string pid(text, got > 0 ? static_cast<size_t>(got) : 0);
  pid.erase(pid.find_last_not_of('\n') + 1);
  return pid;
}

// A directory such as /run/kvsteward is gone after every boot.
absl::Status MakeDirectory(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos || slash == 0) return absl::OkStatus();
  const std::string directory = path.substr(0, slash);
  if (mkdir(directory.c_str(), 0755) == 0 || errno == EEXIST) return absl::OkStatus();
  return Failed("the directory " + directory + " of a socket cannot be made; make it or choose another path");
}

absl::StatusOr<UniqueFd> TakeLock(const std::string& path) {
  if (absl::Status status = MakeDirectory(path); !status.ok()) return status;
  const std::string lock_path = path + ".lock";
  UniqueFd lock(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!lock) return Failed("the lock file " + lock_path + " cannot be opened");
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Failed("the lock file " + lock_path + " cannot be locked");
    const std::string pid = HolderOf(lock.get());
    return absl::FailedPreconditionError("the socket " + path + " is in use by another kvsteward (pid " +
                                         (pid.empty() ? "unknown" : pid) + ")");
  }
  const std::string pid = std::to_string(getpid()) + "\n";
  if (ftruncate(lock.get(), 0) != 0 || pwrite(lock.get(), pid.data(), pid.size(), 0) < 0) {
    return Failed("the lock file " + lock_path + " cannot be written");
  }
  return lock;
}

// REQUIRES: the lock is held. Unlinks a socket file only after nobody answered there.
absl::Status RemoveStale(const std::string& path, int type) {
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Failed("the socket path " + path + " cannot be read");
  }
  if (!S_ISSOCK(file.st_mode)) {
    return absl::InvalidArgumentError("the socket path " + path +
                                      " names a file that is no socket; remove it or choose another path");
  }
  const UniqueFd probe(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return Failed("no socket can be made");
  const sockaddr_un address = Address(path);
  if (connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 || errno == EAGAIN ||
      errno == EPROTOTYPE) {
    return absl::FailedPreconditionError("another program listens on the socket " + path +
                                         "; stop it or choose another path");
  }
  if (errno != ECONNREFUSED) return Failed("the socket " + path + " cannot be probed");
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return Failed("the stale socket " + path + " cannot be removed");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SocketPath> SocketPath::Claim(const std::string& path, int type) {
  if (path.empty() || path.size() > kMaxSocketPath || path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("the socket path \"" + path + "\" is " + std::to_string(path.size()) +
                                      " bytes long; it must be 1 to " + std::to_string(kMaxSocketPath));
  }
  absl::StatusOr<UniqueFd> lock = TakeLock(path);
  if (!lock.ok()) return lock.status();
  if (absl::Status status = RemoveStale(path, type); !status.ok()) return status;
  return SocketPath(path, *std::move(lock));
}

SocketPath::~SocketPath() {
  if (lock_) unlink(path_.c_str());
}

absl::Status SocketPath::SetMode(mode_t mode) const {
  if (chmod(path_.c_str(), mode) != 0) return Failed("the mode of the socket " + path_ + " cannot be set");
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ListenSeqpacket(const SocketPath& path) {
  UniqueFd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return Failed("no socket can be made");
  const sockaddr_un address = Address(path.path());
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener.get(), SOMAXCONN) != 0) {
    return Failed("the socket " + path.path() + " cannot be opened");
  }
  return listener;
}

}  // namespace kvsteward::rpc
