#include "train/training_data.h"

#include "train/testing.h"

namespace megalodon {
namespace {

class ReadAhead : public testing::TrainingTest {
 protected:
  std::vector<Tensor> tokens(TrainingData& data, int64_t steps) const {
    std::vector<Tensor> list;
    for (int64_t i = 0; i < steps; ++i) {
      const auto batches = data.next();
      for (const BatchTensors& batch : *batches) list.push_back(batch.input.tokens_BL);
    }
    return list;
  }

  void SetUp() override {
    TrainingTest::SetUp();
    run_ = tiny_run("run");
  }

  RunConfig run_;
  data::ByteTokenizer bytes_;
};

TEST_F(ReadAhead, ChangesNeitherOrderNorPosition) {
  const RunConfig& run = run_;
  TrainingData data(run.data, *run.model, bytes_, /*accumulate=*/2, /*seed=*/7);
  const data::TokenFile corpus(run.data.train[0]);
  data::Loader loader(corpus, {run.data.batch, run.data.seq_len, 7});
  const auto got = tokens(data, 9);
  for (const Tensor& batch : got)
    EXPECT_TRUE(torch::equal(batch, to_tensors(loader.next(), *run.model, "train").input.tokens_BL));
  EXPECT_EQ(data.position(), loader.position());

  TrainingData resumed(run.data, *run.model, bytes_, 2, 7);
  resumed.seek(3 * 2 * run.data.batch);
  EXPECT_EQ(resumed.position(), 12);
  const auto rest = tokens(resumed, 6);
  for (size_t i = 0; i < rest.size(); ++i) EXPECT_TRUE(torch::equal(rest[i], got[i + 6])) << i;
}

TEST_F(ReadAhead, IdsThatTheModelLacksAreFoundAtOnceInTheCorpusThatHasThem) {
  std::vector<int32_t> document(40, 5);
  document.back() = 300;
  put_documents("large", {document}, 512);
  DataConfig config = run_.data;
  config.train.push_back((folder_ / "large").string());
  const std::string error = error_of([&] { TrainingData(config, *run_.model, bytes_, 1, 7); });
  expect_contains(error, {"/large'", "token 300", "vocabulary is 256"});
  EXPECT_EQ(error.find("/train'"), std::string::npos) << error;
}

TEST_F(ReadAhead, TheOverviewSaysWhichCorporaAreTakenOnTrust) {
  data::TokenFileWriter writer(folder_ / "described", bytes_);
  writer.add_document(std::vector<int32_t>(100, 5));
  writer.finish();
  DataConfig config = run_.data;
  config.train.push_back((folder_ / "described").string());
  const auto lines = TrainingData(config, *run_.model, bytes_, 1, 7).describe(100);
  expect_contains(lines.at(0), {"tokenizer unknown, taken on trust; largest id 109"});
  EXPECT_EQ(lines.at(1).find("trust"), std::string::npos) << lines[1];
}

}  // namespace
}  // namespace megalodon
