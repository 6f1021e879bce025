// The life of leases: socket, Attach, Hold, the end, drain, and what status says of it.
#include <gtest/gtest.h>

#include "tests/core/matchers.h"
#include "tests/core/world.h"

namespace kvsteward::core {
namespace {

constexpr uint64_t kRegionBytes = 1024 + 4096;  // statistics and plans of an attached worker

TEST(Socket, OfAnUnknownTenantOrWithATakenTicketIsClosed) {
  World world(SmallConfig());
  world.Connect("nobody");
  ASSERT_EQ(world.closed.size(), 1u);
  world.Post(SocketOpened{50, "a", SecretOf(7), true});
  world.Post(SocketOpened{51, "a", SecretOf(7), true});
  ASSERT_EQ(world.closed.size(), 2u);
  EXPECT_EQ(world.closed[1].socket, 51u);
  EXPECT_EQ(world.Status().leases.size(), 1u);
}

TEST(Socket, ThatNeverAttachedIsForgotten) {
  World world(SmallConfig());
  const SocketId socket = world.Connect("a");
  EXPECT_EQ(world.Status().leases.at(0).state, LeaseState::kAttaching);
  world.Post(SocketClosed{socket});
  EXPECT_TRUE(world.Status().leases.empty());
  EXPECT_THAT(world.Ask(world.AttachOf(socket, kShape)), Refused(Code::kNotFound, "connect the fd socket first"));
}

TEST(Attach, CreatesRegionsExportsThemAndThenReplies) {
  World world(SmallConfig());
  const SocketId socket = world.Connect("a");
  ASSERT_EQ(world.Ask(world.AttachOf(socket, kShape, 4000)), nullptr);
  const auto creating = world.Open<CreateObject>();
  ASSERT_EQ(creating.size(), 2u);
  EXPECT_EQ(creating[0].object.kind, ObjectKind::kStatistics);
  EXPECT_EQ(creating[0].object.bytes, 1024u);
  EXPECT_EQ(creating[1].object.kind, ObjectKind::kPlans);
  EXPECT_EQ(creating[1].object.bytes, 4096u);  // whole pages
  EXPECT_EQ(world.core.ledger().metadata, kRegionBytes);
  world.Finish<CreateObject>();
  EXPECT_EQ(world.exported.size(), 2u);
  const Reply* reply = world.ReplyTo(world.last_call());
  ASSERT_TRUE(reply != nullptr && reply->outcome.ok());
  const auto& attached = std::get<AttachReply>(reply->body);
  EXPECT_EQ(attached.epoch, 10u);
  EXPECT_EQ(attached.extent_bytes, kExtentBytes);
  EXPECT_EQ(attached.blocks_per_extent, 16u);
  EXPECT_EQ(attached.key, SecretOf(1'000'000 + socket));
  EXPECT_EQ(world.Attached("a", kShape).attached.epoch, 11u);
}

TEST(Attach, WithoutPlansHasNoPlanRegion) {
  World world(SmallConfig());
  world.Must<AttachReply>(world.AttachOf(world.Connect("a"), kShape, 0));
  EXPECT_EQ(world.core.ledger().metadata, 1024u);
}

TEST(Attach, BringsTheFirstExtentWhereTheSelfTestNeedsIt) {
  Config config = SmallConfig();
  config.extent_at_attach = true;
  World world(config);
  const SocketId socket = world.Connect("a");
  ASSERT_EQ(world.Ask(world.AttachOf(socket, kShape)), nullptr);
  const auto creating = world.Open<CreateObject>();
  ASSERT_EQ(creating.size(), 3u);
  EXPECT_EQ(creating[2].object.kind, ObjectKind::kExtent);
  EXPECT_EQ(creating[2].object.bytes, kExtentBytes);
  EXPECT_EQ(creating[2].object.private_bytes, kPrivateBytes);
  world.Finish<CreateObject>();
  EXPECT_EQ(world.exported.size(), 3u);
  const AttachReply attached = std::get<AttachReply>(world.ReplyTo(world.last_call())->body);
  EXPECT_EQ(world.core.ledger().reserved, kExtentBytes);
  EXPECT_EQ(world.Status().leases.at(0).extents, 1u);

  // It is there for the first sequence: the next extent is number 1.
  World::Worker worker;
  worker.socket = socket;
  worker.lease = attached.lease;
  worker.ref = {attached.key, attached.epoch};
  world.Ask(HoldOpened{0, worker.ref});
  world.Finish<RunSelfTest>();
  EXPECT_EQ(world.Must<CreateSequenceReply>(CreateOf(worker, 5, 1000)).extents, 1u);
  ASSERT_EQ(world.Ask(ReserveOf(worker, 5, 400)), nullptr);
  EXPECT_EQ(world.Open<CreateObject>().at(0).object.index, 1u);
  world.FinishMemory();
  world.Post(ProcessGone{socket});
  world.FinishAll();
  EXPECT_EQ(world.core.ledger().free, world.core.ledger().arena);
}

TEST(Attach, CountsTheFirstExtentAsNeeded) {
  Config config = SmallConfig();
  config.extent_at_attach = true;
  config.tenants = {{"a", kRegionBytes + kExtentBytes + kPrivateBytes - 1, nullptr}};
  World world(config);
  EXPECT_THAT(world.Ask(world.AttachOf(world.Connect("a"), kShape)),
              Refused(Code::kResourceExhausted, "the lease's regions and first extent need"));
  EXPECT_TRUE(world.Open<CreateObject>().empty());
}

TEST(Attach, RepeatsItsReplyForTheSameGeometryOnly) {
  World world(SmallConfig());
  const SocketId socket = world.Connect("a");
  const AttachAsked asked = world.AttachOf(socket, kShape);
  AttachAsked other = asked;
  other.geometry += " more";
  EXPECT_EQ(world.Ask(asked), nullptr);
  const CallId first = world.last_call();
  EXPECT_EQ(world.Ask(asked), nullptr);  // waits for the same objects
  const CallId second = world.last_call();
  EXPECT_THAT(world.Ask(other), Refused(Code::kInvalidArgument, "geometry"));
  world.Finish<CreateObject>();
  EXPECT_EQ(std::get<AttachReply>(world.ReplyTo(first)->body).epoch, 10u);
  EXPECT_EQ(std::get<AttachReply>(world.ReplyTo(second)->body).epoch, 10u);
  EXPECT_EQ(std::get<AttachReply>(world.Ask(asked)->body).epoch, 10u);
  EXPECT_THAT(world.Ask(other), Refused(Code::kInvalidArgument, "geometry"));
}

TEST(Attach, IsRefusedBeforeAnythingIsCreated) {
  struct Case {
    std::string why;
    void (*change)(AttachAsked&);
    Code code;
    std::string text;
  };
  for (const Case& c : std::vector<Case>{
           {"ticket", [](AttachAsked& a) { a.ticket = SecretOf(1); }, Code::kNotFound, "connect the fd socket first"},
           {"units", [](AttachAsked& a) { a.shape.units = 0; }, Code::kInvalidArgument, "layers * geometry.kv_heads"},
           {"many units", [](AttachAsked& a) { a.shape.units = 65'537; }, Code::kInvalidArgument,
            "geometry.layers * geometry.kv_heads is 65537; it must be 1 to 65536"},
           {"block", [](AttachAsked& a) { a.shape.block_bytes = 0; }, Code::kInvalidArgument, "geometry"},
           {"huge block", [](AttachAsked& a) { a.shape.block_bytes = UINT64_MAX; }, Code::kInvalidArgument, "geometry"},
           {"statistics", [](AttachAsked& a) { a.statistics_bytes = UINT64_MAX; }, Code::kInvalidArgument, "window"},
           {"plans", [](AttachAsked& a) { a.plan_bytes = UINT64_MAX; }, Code::kInvalidArgument, "plan_bytes"},
           {"arena", [](AttachAsked& a) { a.plan_bytes = 1 << 20; }, Code::kResourceExhausted, "bytes"}}) {
    SCOPED_TRACE(c.why);
    World world(SmallConfig());
    AttachAsked asked = world.AttachOf(world.Connect("a"), kShape);
    c.change(asked);
    EXPECT_THAT(world.Ask(asked), Refused(c.code, c.text));
    EXPECT_TRUE(world.Open<CreateObject>().empty());
    EXPECT_EQ(world.core.ledger().free, world.core.ledger().arena);
  }
}

TEST(Attach, NamesTheShortageOfTheTenant) {
  Config config = SmallConfig();
  config.tenants = {{"a", 4000}};
  World world(config);
  const Reply* reply = world.Ask(world.AttachOf(world.Connect("a"), kShape));
  ASSERT_THAT(reply, Refused(Code::kResourceExhausted, "5120 bytes"));
  EXPECT_EQ(reply->outcome.shortage, (Shortage{kRegionBytes, 4000, 0, 0}));
}

TEST(Attach, StopsAtTheMostLeasesAndEndedOnesCount) {
  Config config = SmallConfig();
  config.max_leases_per_tenant = 1;
  World world(config);
  const World::Worker worker = world.Attached("a", kShape);
  const SocketId next = world.Connect("a");
  EXPECT_THAT(world.Ask(world.AttachOf(next, kShape)), Refused(Code::kResourceExhausted, "leases"));
  world.Post(SocketClosed{worker.socket});
  EXPECT_THAT(world.Ask(world.AttachOf(next, kShape)), Refused(Code::kResourceExhausted, "leases"));
  world.Attached("b", kShape);  // no other tenant's matter
  world.Post(ProcessGone{worker.socket});
  world.FinishMemory();
  world.Must<AttachReply>(world.AttachOf(next, kShape));
}

TEST(Attach, TakesTheMostUnits) {
  World world(SmallConfig());
  world.Must<AttachReply>(world.AttachOf(world.Connect("a"), {65'536, 256}));
}

TEST(Attach, RefusesAKeyThatIsTaken) {
  World world(SmallConfig());
  const World::Worker worker = world.Attached("a", kShape);
  AttachAsked asked = world.AttachOf(world.Connect("a"), kShape);
  asked.new_key = worker.ref.key;
  EXPECT_THAT(world.Ask(asked), Refused(Code::kAborted, "key"));
}

TEST(Attach, CanBeTriedAgainWhenTheMachineHadNoMemory) {
  World world(SmallConfig());
  const SocketId socket = world.Connect("a");
  const AttachAsked asked = world.AttachOf(socket, kShape);
  world.Ask(asked);
  const CallId call = world.last_call();
  const auto creating = world.Open<CreateObject>();
  world.AnswerOpen(1, ObjectReady{creating[1].object.id, {Code::kResourceExhausted, "no pages", {}}});
  EXPECT_EQ(world.ReplyTo(call), nullptr);  // the other one is still under way
  world.Finish<CreateObject>();
  EXPECT_THAT(world.ReplyTo(call), Refused(Code::kResourceExhausted, "no pages"));
  EXPECT_TRUE(world.exported.empty());
  ASSERT_EQ(world.Open<DestroyObject>().size(), 1u);
  world.FinishMemory();
  EXPECT_EQ(world.core.ledger().free, world.core.ledger().arena);
  EXPECT_EQ(world.Status().leases.at(0).state, LeaseState::kAttaching);
  world.Must<AttachReply>(asked);
}

TEST(Attach, ThatWasCancelledIsThereForTheNextOne) {
  World world(SmallConfig());
  const AttachAsked asked = world.AttachOf(world.Connect("a"), kShape);
  world.Ask(asked);
  world.Post(CallCancelled{world.last_call()});
  world.FinishMemory();
  EXPECT_EQ(std::get<AttachReply>(world.Ask(asked)->body).epoch, 10u);
}

TEST(Hold, MakesTheLeaseLiveOnceTheSelfTestPassed) {
  World world(SmallConfig());
  const World::Worker worker = world.Attached("a", kShape);
  EXPECT_THAT(world.Ask(CreateOf(worker, 1, 10)), Refused(Code::kFailedPrecondition, "Hold"));
  EXPECT_THAT(world.Ask(ReserveOf(worker, 1, 10)), Refused(Code::kFailedPrecondition, "Hold"));
  EXPECT_THAT(world.Ask(EvictOf(worker, 1, 10)), Refused(Code::kFailedPrecondition, "Hold"));
  EXPECT_EQ(world.Ask(HoldOpened{0, worker.ref}), nullptr);
  EXPECT_TRUE(world.notices.empty());
  world.Finish<RunSelfTest>();
  ASSERT_EQ(world.notices.size(), 1u);
  EXPECT_EQ(world.notices[0].kind, NoticeKind::kLive);
  EXPECT_EQ(world.Status().leases.at(0).state, LeaseState::kLive);
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 10));
}

TEST(Hold, OfAFailedSelfTestEndsAndTheSocketIsClosed) {
  World world(SmallConfig());
  const World::Worker worker = world.Attached("a", kShape);
  world.Ask(HoldOpened{0, worker.ref});
  world.AnswerOpen(0, SelfTested{worker.lease, false});
  EXPECT_THAT(world.ReplyTo(world.last_call()), Refused(Code::kFailedPrecondition, "self-test"));
  ASSERT_EQ(world.closed.size(), 1u);
  EXPECT_EQ(world.closed[0].socket, worker.socket);
  EXPECT_THAT(world.Ask(HoldOpened{0, worker.ref}), Refused(Code::kFailedPrecondition, "self-test"));
}

TEST(Hold, IsReplacedByANewerOne) {
  World world(SmallConfig());
  const World::Worker worker = world.Attached("a", kShape);
  world.Ask(HoldOpened{0, worker.ref});
  const CallId first = world.last_call();
  world.Ask(HoldOpened{0, worker.ref});  // while the self-test runs: it is not run again
  const CallId second = world.last_call();
  EXPECT_THAT(world.ReplyTo(first), Refused(Code::kAborted, "newer"));
  ASSERT_EQ(world.Open<RunSelfTest>().size(), 1u);
  world.Finish<RunSelfTest>();
  EXPECT_EQ(world.notices.back().call, second);
  world.Ask(HoldOpened{0, worker.ref});  // on a live lease
  EXPECT_THAT(world.ReplyTo(second), Refused(Code::kAborted, "newer"));
  EXPECT_EQ(world.notices.back().call, world.last_call());
  EXPECT_EQ(world.notices.back().kind, NoticeKind::kLive);
  world.Post(CallCancelled{world.last_call()});
  EXPECT_EQ(world.Status().leases.at(0).state, LeaseState::kLive);  // the socket is the lease, not the stream
}

TEST(LeaseRef, TellsStaleFromUnknown) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  struct Case {
    LeaseRef ref;
    Code code;
  };
  for (const Case& c : std::vector<Case>{{{worker.ref.key, 9}, Code::kAborted},  // another epoch of this key
                                         {{worker.ref.key, 11}, Code::kAborted},
                                         {{SecretOf(5), 9}, Code::kAborted},  // of an earlier sidecar
                                         {{SecretOf(5), 10}, Code::kNotFound},
                                         {{SecretOf(5), 0}, Code::kNotFound}}) {
    World::Worker other = worker;
    other.ref = c.ref;
    EXPECT_THAT(world.Ask(CreateOf(other, 1, 10)), Refused(c.code, ""));
    EXPECT_THAT(world.Ask(HoldOpened{0, c.ref}), Refused(c.code, ""));
  }
}

TEST(End, AnswersAllCallsAndQuarantinesUntilTheProcessIsGone) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 100));
  world.Must<ReserveReply>(ReserveOf(worker, 1, 32));
  world.Ask(EvictOf(worker, 1, 32));
  const CallId evict = world.last_call();
  EXPECT_EQ(world.Ask(ReleaseOf(worker, 1)), nullptr);
  const CallId release = world.last_call();
  EXPECT_EQ(world.Ask(CreateOf(worker, 2, 100'000)), nullptr);
  const CallId create = world.last_call();

  world.Post(SocketClosed{worker.socket});
  for (const CallId call : {evict, create, release, worker.hold}) {
    EXPECT_THAT(world.ReplyTo(call), Refused(Code::kUnavailable, "the lease ended"));
  }
  const Ledger ledger = world.core.ledger();
  EXPECT_EQ(ledger.quarantined, ledger.arena - ledger.free);
  EXPECT_EQ(ledger.used, 0u);
  EXPECT_THAT(world.Ask(ReserveOf(worker, 1, 10)), Refused(Code::kNotFound, "key"));  // dead at once
  EXPECT_EQ(world.Status().leases.at(0).state, LeaseState::kEnding);
  world.Finish<CreateObject>();  // what was under way arrives and waits for the end like the rest
  world.Post(ProcessGone{worker.socket});
  EXPECT_TRUE(world.Open<DestroyObject>().empty());  // the job still runs
  world.FinishAll();
  EXPECT_EQ(world.core.ledger().free, world.core.ledger().arena);
  EXPECT_TRUE(world.Status().leases.empty());
}

TEST(End, WithoutAPidfdWaitsInQuarantine) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape, false);
  world.Post(SocketClosed{worker.socket});
  EXPECT_EQ(world.Status().leases.at(0).state, LeaseState::kQuarantined);
  EXPECT_TRUE(world.Open<DestroyObject>().empty());
  world.Post(Detached{worker.socket});
  EXPECT_EQ(world.Open<DestroyObject>().size(), 2u);
  EXPECT_EQ(world.core.ledger().quarantined, kRegionBytes);
  world.FinishMemory();
  EXPECT_TRUE(world.Status().leases.empty());
}

TEST(End, ComesWithTheConfirmationIfThatIsFirst) {
  for (const bool detached : {true, false}) {
    World world(SmallConfig());
    const World::Worker worker = world.Live("a", kShape);
    world.Post(detached ? Event(Detached{worker.socket}) : Event(ProcessGone{worker.socket}));
    EXPECT_EQ(world.closed.size(), 1u);
    EXPECT_EQ(world.Open<DestroyObject>().size(), 2u);
    world.Post(SocketClosed{worker.socket});
    world.FinishMemory();
    world.Post(SocketClosed{worker.socket});
    EXPECT_TRUE(world.Status().leases.empty());
  }
}

TEST(End, DestroysWhatBecomesReadyLater) {
  World world(SmallConfig());
  const SocketId socket = world.Connect("a");
  world.Ask(world.AttachOf(socket, kShape));
  world.Post(ProcessGone{socket});
  EXPECT_THAT(world.ReplyTo(world.last_call()), Refused(Code::kUnavailable, "the lease ended"));
  EXPECT_TRUE(world.Open<DestroyObject>().empty());
  world.Finish<CreateObject>();
  EXPECT_TRUE(world.exported.empty());
  EXPECT_EQ(world.Open<DestroyObject>().size(), 2u);
  world.FinishMemory();
  EXPECT_EQ(world.core.ledger().free, world.core.ledger().arena);
}

TEST(End, DropsWhatIsNotYetCreatedAndGivesItsChargeBack) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 1000));
  const uint64_t free = world.core.ledger().free;
  const auto drops = [](const std::vector<Effect>& effects) {
    std::vector<LeaseId> leases;
    for (const Effect& effect : effects) {
      if (const auto* drop = std::get_if<DropCreates>(&effect)) leases.push_back(drop->lease);
    }
    return leases;
  };
  world.Ask(ReserveOf(worker, 1, 96));
  const auto creating = world.Open<CreateObject>();
  ASSERT_EQ(creating.size(), 2u);
  EXPECT_LT(world.core.ledger().free, free);
  EXPECT_EQ(drops(world.Post(SocketClosed{worker.socket})), std::vector<LeaseId>{worker.lease});
  for (const CreateObject& create : creating) {
    world.AnswerOpen(0, ObjectReady{create.object.id, {Code::kUnavailable, "the lease ended", {}}});
  }
  EXPECT_EQ(world.core.ledger().free, free);
  EXPECT_EQ(world.core.ledger().quarantined, world.core.ledger().arena - free);
  world.Post(ProcessGone{worker.socket});
  world.FinishMemory();
  EXPECT_EQ(world.core.ledger().free, world.core.ledger().arena);

  const World::Worker idle = world.Live("a", kShape);
  EXPECT_TRUE(drops(world.Post(SocketClosed{idle.socket})).empty());  // nothing is being created
}

TEST(End, WaitsForTheSelfTest) {
  World world(SmallConfig());
  const World::Worker worker = world.Attached("a", kShape);
  world.Ask(HoldOpened{0, worker.ref});
  world.Post(ProcessGone{worker.socket});
  EXPECT_TRUE(world.Open<DestroyObject>().empty());  // the sidecar itself reads the region
  world.Finish<RunSelfTest>();
  EXPECT_EQ(world.Open<DestroyObject>().size(), 2u);
}

TEST(Drain, RefusesTheNewAnswersTheWaitingAndLetsJobsEnd) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 100));
  world.Must<ReserveReply>(ReserveOf(worker, 1, 32));
  world.Ask(EvictOf(worker, 1, 32));
  const CallId evict = world.last_call();
  world.Ask(CreateOf(worker, 2, 100'000));
  const CallId create = world.last_call();
  const SocketId attaching = world.Connect("a");
  world.Ask(world.AttachOf(attaching, kShape));
  const CallId attach = world.last_call();
  const SocketId connected = world.Connect("b");

  world.Post(DrainAsked{});
  EXPECT_EQ(world.notices.back().kind, NoticeKind::kDraining);
  EXPECT_EQ(world.notices.back().call, worker.hold);
  EXPECT_THAT(world.ReplyTo(create), Refused(Code::kUnavailable, "draining"));
  EXPECT_THAT(world.ReplyTo(attach), Refused(Code::kUnavailable, "draining"));
  EXPECT_THAT(world.Ask(world.AttachOf(connected, kShape)), Refused(Code::kUnavailable, "draining"));
  world.Connect("a");
  EXPECT_EQ(world.closed.size(), 1u);
  EXPECT_FALSE(world.drained);
  world.Post(DrainAsked{});
  EXPECT_EQ(world.notices.size(), 2u);  // live, draining once
  world.FinishAll();
  EXPECT_TRUE(world.ReplyTo(evict)->outcome.ok());
  EXPECT_TRUE(world.drained);
  EXPECT_TRUE(world.Status().draining);
  EXPECT_THAT(world.Ask(CreateOf(worker, 3, 10)), Refused(Code::kUnavailable, "draining"));
  world.Ask(HoldOpened{0, worker.ref});
  ASSERT_EQ(world.notices.size(), 4u);
  EXPECT_EQ(world.notices[2].kind, NoticeKind::kLive);
  EXPECT_EQ(world.notices[3].kind, NoticeKind::kDraining);
}

TEST(Drain, IsNotDelayedByAWorkerThatKeepsAsking) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  for (const SequenceId id : {1, 2, 3}) world.Must<CreateSequenceReply>(CreateOf(worker, id, 100));
  for (const SequenceId id : {1, 2, 3}) world.Must<ReserveReply>(ReserveOf(worker, id, 32));
  world.Ask(EvictOf(worker, 1, 32));
  const CallId evict = world.last_call();
  world.Post(DrainAsked{});

  const auto refused = Refused(Code::kUnavailable, "the sidecar is draining; use another one");
  EXPECT_THAT(world.Ask(EvictOf(worker, 2, 32)), refused);
  EXPECT_THAT(world.Ask(ReserveOf(worker, 2, 80, 32)), refused);
  EXPECT_THAT(world.Ask(ReserveOf(worker, 2, 32, 32)), refused);  // even if it asks for nothing new
  EXPECT_THAT(world.Ask(CreateOf(worker, 4, 100)), refused);
  EXPECT_THAT(world.Ask(CreateOf(worker, 2, 100)), refused);  // or for what it had
  EXPECT_THAT(world.Ask(world.AttachOf(worker.socket, kShape)), refused);
  EXPECT_EQ(world.Must<TruncateReply>(TruncateOf(worker, 2, 16)).tokens, 16);
  EXPECT_EQ(world.Must<ReleaseSequenceReply>(ReleaseOf(worker, 3)).blocks_freed, 4u);
  EXPECT_EQ(world.Ask(ReleaseOf(worker, 1)), nullptr);  // waits for the job that was there
  const CallId release = world.last_call();
  EXPECT_FALSE(world.drained);

  while (!world.open().empty()) {
    EXPECT_FALSE(world.drained);
    EXPECT_THAT(world.Ask(EvictOf(worker, 2, 16)), refused);
    world.AnswerOpen(0, World::Good(world.open()[0]));
  }
  EXPECT_NE(world.ReplyTo(evict), nullptr);
  EXPECT_TRUE(world.ReplyTo(release)->outcome.ok());
  EXPECT_TRUE(world.drained);
}

TEST(Status, AddsUpByTenantAndLease) {
  World world(SmallConfig());
  const World::Worker first = world.Live("b", kShape);
  const World::Worker second = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(second, 1, 100));
  world.Must<ReserveReply>(ReserveOf(second, 1, 33));
  const StatusReply status = world.Status();
  EXPECT_EQ(status.epoch, 10u);
  ASSERT_EQ(status.tenants.size(), 2u);
  EXPECT_EQ(status.tenants[0].name, "a");
  EXPECT_EQ(status.tenants[0].used_bytes, 2 * 3 * 256u);
  EXPECT_EQ(status.tenants[0].charged_bytes, kRegionBytes + 4096 + kExtentBytes + kPrivateBytes);
  EXPECT_EQ(status.tenants[1].charged_bytes, kRegionBytes);
  ASSERT_EQ(status.leases.size(), 2u);
  EXPECT_EQ(status.leases[0].lease, first.lease);
  EXPECT_EQ(status.leases[1].extents, 1u);
  EXPECT_EQ(status.leases[1].sequences, 1u);
  EXPECT_EQ(status.leases[1].used_bytes, 2 * 3 * 256u);
  EXPECT_EQ(status.ledger.reserved, kExtentBytes - 2 * 3 * 256);
  EXPECT_EQ(status.ledger.metadata, 2 * kRegionBytes + 4096 + kPrivateBytes);
}

}  // namespace
}  // namespace kvsteward::core
