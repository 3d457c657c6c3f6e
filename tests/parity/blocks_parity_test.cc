// Embeddings, attention, dense blocks and the final layer against the published code, in fp64 (the
// time embedding in fp32, as there).
#include <ATen/ops/embedding.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/where.h>

#include "core/model/dit_block.h"
#include "core/model/embedding.h"
#include "tests/parity/fixture.h"

namespace diffmoe {
namespace {

constexpr double kFp64 = 1e-10;
// At t = 999 the last bit of the fp32 angle is 6e-5: another exp() on another CPU moves it.
constexpr double kFp32Sinusoid = 1e-4, kFp32 = 1e-5;

constexpr int64_t kHeads = 3;

class BlocksParity : public ::testing::Test {
 protected:
  LinearLayer Linear(const std::string& name) const {
    return {golden_.at(name + ".weight"), golden_.at(name + ".bias")};
  }
  DitBlock Attention(const std::string& prefix, int64_t heads) const {
    DitBlock block;
    block.qkv = Linear(prefix + "qkv");
    block.proj = Linear(prefix + "proj");
    block.heads = heads;
    return block;
  }
  const Fixture golden_{"embeddings_and_blocks"};
};

TEST_F(BlocksParity, TimeEmbedding) {
  const at::Tensor t = golden_.at("temb.in.t");
  EXPECT_TRUE(Close(TimeSinusoid(t, 256), golden_.at("temb.out.dim256"), kFp32Sinusoid));
  EXPECT_TRUE(Close(TimeSinusoid(t, 48), golden_.at("temb.out.dim48"), kFp32Sinusoid));
  EXPECT_TRUE(Close(TimeSinusoid(t, 7), golden_.at("temb.out.dim7"), kFp32Sinusoid));
  EXPECT_TRUE(Close(EmbedTime(Linear("tmlp.mlp.0"), Linear("tmlp.mlp.2"),
                              TimeSinusoid(golden_.at("tmlp.in.t"), 256)),
                    golden_.at("tmlp.out"), kFp32));
}

TEST_F(BlocksParity, Positions) {
  EXPECT_TRUE(Close(PositionTable(3, 8), golden_.at("pos.out.d8_g3"), kFp64));
  EXPECT_TRUE(Close(PositionTable(8, 16), golden_.at("pos.out.d16_g8"), kFp64));
  EXPECT_TRUE(Close(PositionTable(4, 48), golden_.at("pos.out.d48_g4"), kFp64));
}

TEST_F(BlocksParity, Patches) {
  for (const std::string name : {"patch3", "patch4"}) {
    EXPECT_TRUE(Close(EmbedPatches(Linear(name + ".proj"), golden_.at(name + ".in.x")),
                      golden_.at(name + ".out.tokens"), kFp64))
        << name;
  }
  EXPECT_TRUE(Close(Unpatchify(golden_.at("unpatch_a.in.tokens"), 2, 8),
                    golden_.at("unpatch_a.out.img"), 0));
  EXPECT_TRUE(Close(Unpatchify(golden_.at("unpatch_b.in.tokens"), 4, 6),
                    golden_.at("unpatch_b.out.img"), 0));
}

// A label becomes the null class when its uniform number is below the dropout.
TEST_F(BlocksParity, LabelDropout) {
  const at::Tensor labels = golden_.at("label.in.y"),
                   table = golden_.at("label.embedding_table.weight");
  const at::Tensor null_class = at::full_like(labels, table.size(0) - 1);
  const at::Tensor drop = golden_.at("label.in.uniform").lt(0.1f);
  EXPECT_TRUE(Close(drop, golden_.at("label.out.drop_ids"), 0));
  const at::Tensor dropped = at::where(drop, null_class, labels);
  EXPECT_TRUE(Close(at::embedding(table, dropped), golden_.at("label.out.train"), 0));
  EXPECT_TRUE(Close(at::embedding(table, labels), golden_.at("label.out.eval"), 0));
  const at::Tensor forced = at::where(golden_.at("label.in.force_drop").eq(1), null_class, labels);
  EXPECT_TRUE(Close(at::embedding(table, forced), golden_.at("label.out.forced_eval"), 0));
}

TEST_F(BlocksParity, Attention) {
  const at::Tensor x = golden_.at("attn.in.x");
  // Width 24 with the heads of the block; then heads of 6 features whose sum is not the width.
  EXPECT_TRUE(Close(Attend(Attention("attn.", kHeads), x), golden_.at("attn.out"), kFp64));
  const int64_t narrow = golden_.at("attn_hd6.qkv.weight").size(0) / 3 / 6;
  EXPECT_TRUE(Close(Attend(Attention("attn_hd6.", narrow), x), golden_.at("attn_hd6.out"), kFp64));
}

TEST_F(BlocksParity, DenseBlocks) {
  const at::Tensor x = golden_.at("attn.in.x"), conditioning = at::silu(golden_.at("block.in.c"));
  DitBlock gelu = Attention("block.attn.", kHeads);
  gelu.modulation = Linear("block.adaLN_modulation.1");
  gelu.fc1 = Linear("block.mlp.fc1");
  gelu.fc2 = Linear("block.mlp.fc2");
  EXPECT_TRUE(Close(RunDenseBlock(gelu, x, conditioning), golden_.at("block.out"), kFp64));
  DitBlock swiglu = Attention("block_swiglu.attn.", kHeads);
  swiglu.modulation = Linear("block_swiglu.adaLN_modulation.1");
  swiglu.activation = Activation::kSwiglu;
  swiglu.gate.weight = golden_.at("block_swiglu.mlp.gate_proj.weight");
  swiglu.up.weight = golden_.at("block_swiglu.mlp.up_proj.weight");
  swiglu.down.weight = golden_.at("block_swiglu.mlp.down_proj.weight");
  EXPECT_TRUE(Close(RunDenseBlock(swiglu, x, conditioning), golden_.at("block_swiglu.out"), kFp64));
}

TEST_F(BlocksParity, FinalLayer) {
  const at::Tensor out = RunFinalLayer(Linear("final.adaLN_modulation.1"), Linear("final.linear"),
                                       golden_.at("attn.in.x"), at::silu(golden_.at("block.in.c")));
  EXPECT_TRUE(Close(out, golden_.at("final.out"), kFp64));
}

}  // namespace
}  // namespace diffmoe
