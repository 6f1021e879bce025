// Tenants' policies: what calls get that name none, and how operators change it while the daemon runs.
#include <string>
#include <vector>

#include "kvsteward/engine/policy.h"
#include "tests/rpc/calls.h"
#include "tests/rpc/field_fixture.h"

namespace kvsteward::rpc {
namespace {

using ::testing::HasSubstr;

v1::SetTenantRequest ToPolicy(const std::string& policy) {
  v1::SetTenantRequest request;
  request.set_tenant("t");
  request.set_policy(policy);
  return request;
}

class TenantsTest : public FieldTest {
 protected:
  grpc::Status Set(const v1::SetTenantRequest& request) {
    v1::SetTenantResponse response;
    return rig_.Admin()->SetTenant(Context().get(), request, &response);
  }
  v1::TenantStatus Tenant() {
    v1::ListTenantsResponse response;
    const grpc::Status status = rig_.Admin()->ListTenants(Context().get(), {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.tenants_size(), 1);
    return response.tenants(0);
  }
  // What an eviction says that names no policy and brings no window.
  Said EvictByDefault() {
    v1::EvictSequence item;
    item.set_sequence(1);
    item.set_written_tokens(40);
    item.set_budget_tokens(36);
    item.set_plan_only(true);
    return Evict(worker_, item);
  }
};

TEST_F(TenantsTest, CallsThatNameNoPolicyGetTheTenantsOfThatMoment) {
  ASSERT_EQ(Reserve(worker_, Room(1, 40)).code, 0u);
  const auto says = [&](const std::string& text) {
    const Said said = EvictByDefault();
    EXPECT_EQ(said.code, static_cast<uint32_t>(grpc::StatusCode::INVALID_ARGUMENT));
    EXPECT_THAT(said.message, HasSubstr(text));
  };
  says("window has no query rows; signal softmax of policy snapkv");
  ASSERT_TRUE(Set(ToPolicy("streaming-llm")).ok());
  EXPECT_EQ(EvictByDefault().code, 0u);
  ASSERT_TRUE(Set(ToPolicy("name: mine\nwindow: 2\n")).ok());
  says("of policy mine reads them");
  ASSERT_TRUE(Set(ToPolicy("")).ok());
  says("of policy snapkv reads them");
}

TEST_F(TenantsTest, AreListedWithTheirPolicies) {
  EXPECT_EQ(Tenant().name(), "t");
  EXPECT_EQ(Tenant().hard_limit_bytes(), 64u << 20);
  EXPECT_GT(Tenant().charged_bytes(), 0u);
  EXPECT_EQ(Tenant().policy(), "snapkv");
  EXPECT_EQ(Tenant().policy_yaml(), engine::PolicyToYaml(*engine::Preset("snapkv")));
  ASSERT_TRUE(Set(ToPolicy("{name: mine, signal: none}")).ok());
  EXPECT_EQ(Tenant().policy(), "mine");
  EXPECT_EQ(Tenant().policy_yaml(), engine::PolicyToYaml(*engine::PolicyFromYaml("name: mine\nsignal: none\n")));
  EXPECT_EQ(rig_.GetStatus().tenants(0).SerializeAsString(), Tenant().SerializeAsString());
}

TEST_F(TenantsTest, EveryFieldThatIsWrongIsNamed) {
  using R = v1::SetTenantRequest;
  R unknown = ToPolicy("snapkv");
  unknown.set_tenant("nobody");
  EXPECT_EQ(Set(unknown).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(Set(unknown).error_message(), HasSubstr("nobody"));
  RefuseAll<R>(ToPolicy("h2o"),
               {{[](R& r) { r.clear_tenant(); }, "tenant is missing; send the name of one that ListTenants lists"},
                {[](R& r) { r.clear_policy(); }, "policy is missing; send a preset's name"},
                {[](R& r) { r.set_policy("best"); }, "policy is refused: there is no policy 'best'"},
                {[](R& r) { r.set_policy("name: [x"); }, "policy is refused: "},
                {[](R& r) { r.set_policy("name: x\nhead: best\n"); }, "policy is refused: policy line 2: head"},
                {[](R& r) { r.set_policy("name: x\nselect: block\n"); },
                 "policy is refused: head is uniform; it must be ada_floor"},
                {[](R& r) { r.set_policy(std::string(65'537, 'x')); }, "policy is refused: its text is 65537 bytes"}},
               [&](const R& request) { return Set(request); });
  EXPECT_EQ(Tenant().policy(), "h2o");
}

}  // namespace
}  // namespace kvsteward::rpc
