// What a test can see of its own process, and a second process to look at memory from.
#pragma once

#include <dirent.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace kvsteward::memory {

// Descriptors that this process has open.
inline int OpenDescriptors() {
  int count = -1;  // the listing's own
  DIR* const directory = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(directory)) count += entry->d_name[0] != '.';
  closedir(directory);
  return count;
}

// Whether anything, reserved address space included, lies at `data`.
inline bool IsMapped(const void* data) {
  unsigned char present = 0;
  return mincore(const_cast<void*>(data), 1, &present) == 0;
}

// How many of the pages at `data` are in memory.
inline size_t PagesPresent(const void* data, size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> present((bytes + page - 1) / page);
  mincore(const_cast<void*>(data), bytes, present.data());
  return static_cast<size_t>(std::count_if(present.begin(), present.end(), [](unsigned char p) { return p & 1; }));
}

// Runs `check` in a forked child; what it says, and false if it died of it.
template <class Check>
bool InAnotherProcess(Check check) {
  const pid_t child = fork();
  if (child == 0) _exit(check() ? 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace kvsteward::memory
