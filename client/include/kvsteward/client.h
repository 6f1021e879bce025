// The public C++ client: attaches a worker to the sidecar, maps its memory and drives its sequences.
//
// Thread-safety: a Client may be used from several threads; one Sequence belongs to one thread at a time (the step
// rule). After the sidecar has died every call says so (UNAVAILABLE); Reattach() then makes a new lease, and every old
// Sequence answers FAILED_PRECONDITION: its tokens are gone with the sidecar's books, though its memory stays readable
// until the Sequence is destroyed. A lease ends when the Client (or its Reattach) and all its Sequences have let go of
// it.
//
// Where the sidecar's memory is a CUDA device's (Client::device() names it), Key, Value and Block give addresses of
// that device, in its primary context: the host must not follow them. Windows, inputs, tables and plans are the host's
// always. Before a call names a sequence, and before the last Sequence and the Client go, the worker waits for whatever
// its own streams do with the memory: a lease ends by unmapping it.
//
// Errors are the sidecar's own, in its words; besides: INTERNAL, the sidecar broke the protocol; DEADLINE_EXCEEDED, a
// call took longer than call_timeout. Then the sequences it named stay the sidecar's until a later call that names them
// succeeds, or their done words are there. No call is retried: every call states the wanted end and may be repeated.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvsteward/shm.h"

namespace kvsteward {

enum class ElementType : uint8_t { kF32 = 1, kF16 = 2, kBF16 = 3 };

struct ModelGeometry {
  uint32_t layers = 0;
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  ElementType dtype = ElementType::kBF16;  // of keys and values

  uint32_t units() const { return layers * kv_heads; }
};

struct ClientOptions {
  std::string address;    // gRPC, e.g. "unix:/run/kvsteward/kvsteward.sock"
  std::string fd_socket;  // path of the tenant's fd socket
  ModelGeometry geometry;
  uint32_t window_rows = 32;
  uint32_t window_slots = 1;
  uint64_t plan_bytes = 0;
  uint64_t input_bytes = 0;  // room for what some policies read besides: see Inputs
  std::chrono::milliseconds call_timeout{30'000};
  std::function<void()> on_draining;  // from a thread of the client's; must not block nor destroy the client
};

// Query rows in a window slot, after RoPE. No rows: no window.
struct Window {
  uint32_t rows = 0;
  uint32_t slot = 0;
  ElementType dtype = ElementType::kF32;
  std::vector<uint32_t> positions = {};  // empty: the last rows of the written tokens
};

// What some policies read besides, as offsets (multiples of 64) into Client::InputArea(). Residents are those of the
// sequence now, all units' one after the other.
struct Inputs {
  std::optional<uint64_t> classes;           // uint8 [written], by position
  std::optional<uint64_t> scores;            // float [residents], at least 0
  std::optional<uint64_t> projected_norms;   // float [residents]
  std::optional<uint64_t> query_mean;        // float [layers, query_heads, head_dim]
  std::optional<uint64_t> query_covariance;  // float [layers, query_heads, head_dim, head_dim]
};

// A ready or done word, one of KVS_WORDS of each, and a value for it: kvsteward/shm.h says how a thread or a CUDA
// stream stores and awaits it. Client::ReadyWord and DoneWord are their addresses.
struct Word {
  uint32_t slot = 0;
  uint32_t value = 0;
};

// What may be asked of one eviction. Exactly one budget is set.
struct EvictOptions {
  std::string policy;  // a preset's name or a policy as YAML; empty: the tenant's default
  std::optional<uint32_t> budget_tokens;
  std::optional<uint32_t> budget_ppm;
  std::optional<uint64_t> budget_bytes;
  Window window;
  Inputs inputs;
  bool lazy = false;  // a no-op unless EvictionDue
  bool plan_only = false;
  bool export_plan = false;
  bool export_scores = false;
  std::optional<uint64_t> if_version;
  // The call waits until this ready word has reached the value before it reads anything; DEADLINE_EXCEEDED after 10
  // seconds, with nothing changed. So it may be made while a stream still writes the tokens that Wrote() spoke of.
  std::optional<Word> ready;
  // This done word gets the value just before the call returns, so that a stream can wait instead of a thread. If the
  // call fails and the word is not there (the call was refused as a whole, or the sidecar has died), nobody else stores
  // it: the caller does, or the stream waits for ever.
  std::optional<Word> done;
};

// Rows for running scores: those at the observed tokens and the positions right behind. A budget where the policy's
// signal depends on it, at most one.
struct ObserveOptions {
  std::string policy;  // one that accumulates `running`; empty: the tenant's default
  std::optional<uint32_t> budget_tokens;
  std::optional<uint32_t> budget_ppm;
  std::optional<uint64_t> budget_bytes;
  Window window;
  Inputs inputs;              // classes, if the signal is over candidates only and the policy protects some
  std::optional<Word> ready;  // as in EvictOptions
  std::optional<Word> done;   // as in EvictOptions
};

struct Evicted {
  bool no_op = false;
  uint32_t budget_tokens = 0;
  std::vector<uint32_t> lengths;  // [units] residents before
  std::vector<uint32_t> kept;     // [units] residents after
  uint64_t blocks_freed = 0;
  uint64_t bytes_evicted = 0;
  uint64_t bytes_returned = 0;
  uint64_t version = 0;
  uint32_t unsplit_layers = 0;     // layers in which `split` found room for no full head
  bool planned_on_host = true;     // the host made the plan, not a device
  const kvs_plan* plan = nullptr;  // until the next call that names the sequence
  uint64_t queue_us = 0, score_us = 0, select_us = 0, compact_us = 0;
};

// Memory that a RESOURCE_EXHAUSTED lacked.
struct Shortage {
  uint64_t needed_bytes = 0;
  uint64_t free_bytes = 0;                   // that this lease could still have
  uint64_t reclaimable_bytes = 0;            // that eviction of others could bring
  std::chrono::microseconds retry_after{0};  // a hint; 0: retrying alone will not help
};
// nullopt if the status is not about memory or retrying.
std::optional<Shortage> ShortageOf(const absl::Status& status);

class Client;

// One request's cache. Destroying it releases it. A Sequence that was moved from can only be assigned to or destroyed.
class Sequence {
 public:
  ~Sequence();
  Sequence(Sequence&&) noexcept;
  Sequence& operator=(Sequence&&) noexcept;

  uint64_t id() const;
  uint32_t written() const;   // tokens seen and written, as last told by Wrote()
  uint32_t reserved() const;  // room, in tokens seen
  uint64_t version() const;   // for EvictOptions::if_version

  // Makes room for `total_tokens` tokens seen. RESOURCE_EXHAUSTED says how much is missing.
  absl::Status Reserve(uint32_t total_tokens);

  // Residents of a unit (layer * kv_heads + kv_head) now, and the address of one resident's K and V. A slot at or
  // beyond the residents, up to the reserved room, is where the next tokens go. Valid until the next call on this
  // sequence. nullptr (0 residents, an empty row) for a unit or slot that does not exist, and after Release.
  uint32_t Residents(uint32_t unit) const;
  std::byte* Key(uint32_t unit, uint32_t slot) const;
  std::byte* Value(uint32_t unit, uint32_t slot) const;
  // The unit's blocks of 16 tokens, in order: K at Block(b), V right behind at Block(b) + block_bytes / 2.
  std::span<const uint32_t> Row(uint32_t unit) const;
  std::byte* Block(uint32_t block) const;

  // Copies from the host to where Key, Value or Block says, whatever memory that is; done on return. For what is not
  // made there in the first place: a hand-off, a replay. UNAVAILABLE if the device is lost. REQUIRES: it ends within a
  // block.
  absl::Status Write(std::byte* to, std::span<const std::byte> from) const;

  // The worker has written keys and values of all tokens below `tokens` seen. No call is made; INVALID_ARGUMENT unless
  // written() <= tokens <= reserved(). Tokens that may be rolled back are best told of once they are settled.
  absl::Status Wrote(uint32_t tokens);

  absl::StatusOr<Evicted> Evict(const EvictOptions& options);
  // Whether some unit has a block of residents more than the last eviction left it, or than `budget_tokens` before the
  // first: evicting earlier would move much for little. Makes no call, so it may be asked at every step. It does not
  // see that the budget was changed: Evict then.
  bool EvictionDue(uint32_t budget_tokens) const;
  // Adds query rows to the sequence's running scores, each row once and in order; returns how many tokens are observed.
  // ABORTED if rows are skipped or repeated.
  absl::StatusOr<uint32_t> Observe(const ObserveOptions& options);
  // Forgets the newest tokens, down to `tokens` seen, and frees the room behind them. FAILED_PRECONDITION below what
  // the last eviction saw.
  absl::Status Truncate(uint32_t tokens);
  // Releases now, to see the error; the destructor does the same and ignores it.
  absl::Status Release();

 private:
  friend class Client;
  struct Impl;
  explicit Sequence(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What is resident from the start (a hand-off, a replay): positions of all units one after the other.
struct InitialResidents {
  uint32_t seen_tokens = 0;
  std::vector<uint32_t> lengths;   // [units]
  std::vector<int32_t> positions;  // [sum of lengths], ascending within a unit
};

class Client {
 public:
  // Connects both sockets, attaches, maps the regions, passes the self-test. UNAVAILABLE if no sidecar listens.
  static absl::StatusOr<std::unique_ptr<Client>> Attach(const ClientOptions& options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // A new lease after the old one has ended; OK at once if it has not. Sequences of the old lease stay readable and
  // refuse calls.
  absl::Status Reattach();

  absl::StatusOr<Sequence> CreateSequence(uint64_t id, uint32_t max_tokens,
                                          const std::optional<InitialResidents>& residents = std::nullopt);
  // Reserve for many sequences (at most 1024) in one call, once per step. One status each, in order.
  absl::StatusOr<std::vector<absl::Status>> Reserve(std::span<Sequence* const> sequences,
                                                    std::span<const uint32_t> total_tokens);

  // Where window slot `slot` is written: [layers, query_heads, rows, head_dim], packed. nullptr beyond window_slots.
  // Valid until Reattach.
  std::byte* WindowSlot(uint32_t slot) const;
  uint64_t window_slot_bytes() const;
  // Room for Inputs, input_bytes long. Valid until Reattach.
  std::span<std::byte> InputArea() const;
  // The words of the lease, to be stored and loaded atomically. nullptr beyond KVS_WORDS. Valid until Reattach.
  uint32_t* ReadyWord(uint32_t slot) const;
  uint32_t* DoneWord(uint32_t slot) const;
  uint64_t block_bytes() const;
  std::string lease_name() const;
  std::string backend() const;
  // The UUID of the CUDA device on which blocks lie, as nvidia-smi prints it; empty: they lie on the host.
  std::string device() const;

 private:
  friend class Sequence;
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvsteward
