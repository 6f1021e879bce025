// Tenants' default policies, changed while the sidecar runs.
#include <gtest/gtest.h>

#include "tests/core/evicting.h"
#include "tests/core/matchers.h"

namespace kvsteward::core {
namespace {

int DefaultOf(World& world, const std::string& name) {
  for (const TenantStatus& tenant : world.Status().tenants) {
    if (tenant.name == name) return tenant.policy->number;
  }
  return -1;
}

TEST(SetTenant, ChangesThePolicyOfCallsThatNameNone) {
  Evicting e(64);
  e.Add(2, 16);
  e.Ask(e.Item());
  e.world.Must<SetTenantReply>(SetTenantAsked{0, "a", PolicyOf(5)});
  EXPECT_EQ(DefaultOf(e.world, "a"), 5);
  EXPECT_EQ(DefaultOf(e.world, "b"), 2);
  e.Ask(EvictOf(e.worker, 2, 16));
  const CallId call = e.world.last_call();
  const std::vector<RunEvict> runs = e.world.Open<RunEvict>();
  EXPECT_EQ(runs.at(0).policy->number, 1);  // keeps its own
  EXPECT_EQ(runs.at(1).policy->number, 5);
  e.world.FinishAll();
  EXPECT_EQ(e.Result(call).policy->number, 5);

  EvictAsked named = e.Item();
  named.items[0].policy = PolicyOf(9);
  e.Ask(named);
  EXPECT_EQ(e.world.Open<RunEvict>().at(0).policy->number, 9);
  e.world.FinishAll();
  e.Ask(ObserveOf(e.worker, 1, 64));
  EXPECT_EQ(e.world.Open<RunEvict>().at(0).policy->number, 5);
  e.world.FinishAll();
}

TEST(SetTenant, WithoutAPolicyGoesBackToTheConfiguredOne) {
  World world(SmallConfig());
  world.Must<SetTenantReply>(SetTenantAsked{0, "b", PolicyOf(5)});
  world.Must<SetTenantReply>(SetTenantAsked{0, "b", PolicyOf(6)});
  world.Post(DrainAsked{});  // which operators' calls do not mind
  world.Must<SetTenantReply>(SetTenantAsked{0, "b", nullptr});
  EXPECT_EQ(DefaultOf(world, "b"), 2);
}

TEST(SetTenant, OfNobodyIsRefused) {
  World world(SmallConfig());
  EXPECT_THAT(world.Ask(SetTenantAsked{0, "c", PolicyOf(5)}), Refused(Code::kNotFound, "tenant \"c\""));
}

}  // namespace
}  // namespace kvsteward::core
