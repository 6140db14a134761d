// Checkpoints under attack: processes killed while they save, disks that fail at every call, bytes that flip.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <random>
#include <set>

#include "base/process.h"
#include "models/weights.h"
#include "tests/support/faults.h"
#include "train/checkpoint_writer.h"
#include "train/resume.h"
#include "train/testing.h"
#include "train/trainer.h"

namespace megalodon {
namespace {

using faults::Fault;
using faults::Faults;
using faults::kShortWrite;

constexpr int kPatience = 300'000;  // milliseconds

class Attack : public testing::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    at::set_num_threads(1);  // also: a forked child must not meet threads that stayed behind
    model_ = tiny_run("run").model->build();
    model_->init_weights(1);
    optimizer_.emplace(named_weights(*model_), OptimizerConfig{});
    run_.emplace(folder_ / "run");
    run_->open();
  }

  /// All parts of a checkpoint; every number in it says its step, so that a mixture of two would show.
  FolderParts parts(int64_t step) const {
    torch::NoGradGuard no_grad;
    TrainerState state;
    state.step = step;
    for (const auto& [name, parameter] : named_weights(*model_)) Tensor(parameter).fill_(static_cast<double>(step));
    for (const auto& [name, moment] : optimizer_->state()) Tensor(moment).fill_(static_cast<double>(step));
    const FolderParts model = model_parts(model_->config(), named_weights(*model_), {{"type", "bytes"}});
    FolderParts parts = checkpoint_parts(model, *optimizer_, state);
    parts.add("ema", model);
    return parts;
  }
  /// Shards of a few kB.
  SaveOptions options() const { return {.keep = 2, .major_every = 0, .max_shard_bytes = 8000}; }

  /// The step of the newest checkpoint, after loading all of it.
  int64_t load_newest() {
    const auto newest = choose_checkpoint(*run_, "auto");
    if (!newest) return 0;
    const int64_t step = read_trainer_state(*newest).step;
    EXPECT_EQ(newest->filename(), fmt::format("step-{:08}", step));
    const LoadedModel loaded = load_model(*newest);
    for (const auto& [name, parameter] : named_weights(*loaded.model))
      EXPECT_TRUE(parameter.eq(static_cast<double>(step)).all().item<bool>()) << name;
    optimizer_->load_state(io::read_tensors(*newest, "optimizer"), read_trainer_state(*newest).updates);
    for (const auto& [name, moment] : optimizer_->state())
      EXPECT_TRUE(moment.eq(static_cast<double>(step)).all().item<bool>()) << name;
    return step;
  }

  /// A process that saves one step after another, until it is ended; between two it rests up to `rest` times as long as
  /// a save takes. Returns when the first save has begun.
  pid_t start_saving(int64_t first, const SaveOptions& options, bool async, double rest = 0) {
    int ends[2];
    if (pipe(ends) != 0) fail("no pipe");
    const pid_t child = fork();
    if (child < 0) fail("no process");
    if (child == 0) save_without_end(first, options, async, rest, ends[1]);
    close(ends[1]);  // a child that ends is then the end of what can be read
    pollfd begun{.fd = ends[0], .events = POLLIN, .revents = 0};
    char byte = 0;
    const bool saves = poll(&begun, 1, kPatience) == 1 && read(ends[0], &byte, 1) == 1;
    close(ends[0]);
    if (saves) return child;
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    fail("the process that saves {}", WTERMSIG(status) == SIGKILL ? "does not begin" : "has ended");
  }
  [[noreturn]] void save_without_end(int64_t first, const SaveOptions& options, bool async, double rest, int begun) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // nothing outlives the test
    try {
      run_.emplace(folder_ / "run");
      run_->open();
      CheckpointWriter writer(*run_, options, async);
      std::mt19937 random(2);
      for (int64_t step = first;; ++step) {
        writer.save(parts(step), step);
        if (step == first) (void)!::write(begun, "s", 1);
        if (rest == 0) continue;
        writer.wait();
        const double seconds = rest * writer.reports().at(0).seconds;
        usleep(std::uniform_int_distribution<useconds_t>(0, static_cast<useconds_t>(1e6 * seconds))(random));
      }
    } catch (const std::exception& error) {
      fmt::print(stderr, "the process that saves: {}\n", error.what());
    }
    _exit(1);
  }
  static void end(pid_t child) {
    kill(child, SIGKILL);
    EXPECT_EQ(waitpid(child, nullptr, 0), child);
  }

  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(run_->checkpoints())) found.insert(entry.path().filename());
    return found;
  }

  std::unique_ptr<Model> model_;
  std::optional<AdamW> optimizer_;
  std::optional<RunFolder> run_;
};

/// C1. What a child process that saves without pause leaves when it is killed.
TEST_F(Attack, KilledWhileSavingTheNewestCheckpointLoads) {
  constexpr int kKills = 200, kSaves = 5;
  std::mt19937 random(1);
  // Whatever the machine and the build, kills come during any part of the first saves; a machine that stands still for
  // a moment must not make all of them late.
  double fastest = 1;
  for (int64_t step = 1; step <= kSaves; ++step) {
    const Stopwatch watch;
    run_->save(parts(step), step, options());
    fastest = std::min(fastest, watch.seconds());
  }
  std::uniform_int_distribution<useconds_t> microseconds(0, static_cast<useconds_t>(3e6 * fastest));
  run_.reset();
  int64_t last = kSaves, progress = 0;
  for (int kill_number = 0; kill_number < kKills; ++kill_number) {
    const pid_t child = start_saving(last + 1, options(), /*async=*/kill_number % 2 == 0);
    usleep(microseconds(random));
    end(child);

    // As it lies there, and after the cleaning up of the next run.
    run_.emplace(folder_ / "run");
    const int64_t before = load_newest();
    run_->open();
    EXPECT_EQ(load_newest(), before);
    for (const std::string& name : names()) EXPECT_NE(name[0], '.') << name;
    EXPECT_GE(before, last) << "a published checkpoint is gone";
    progress += before - last;
    last = before;
    run_.reset();
    if (HasFailure()) FAIL() << "after kill " << kill_number;
  }
  EXPECT_GT(progress, kKills / 2) << "the kills came before anything was saved";
}

/// C6. Only the newest checkpoint is kept, and it comes and goes all the time.
TEST_F(Attack, WhoLoadsBesideTrainingSeesWholeCheckpointsOnly) {
  constexpr size_t kCheckpoints = 30;
  run_->save(parts(1), 1, options());
  run_.reset();
  // Rests, or a fast writer would never let a slow reader come to an end.
  const pid_t child = start_saving(2, {.keep = 1, .major_every = 0, .max_shard_bytes = 8000}, /*async=*/true, 4);
  std::set<int64_t> steps;
  const Stopwatch watch;
  while (steps.size() < kCheckpoints && watch.seconds() < 1e-3 * kPatience && !HasFailure()) {
    with_model_folder(folder_ / "run", [&](const fs::path& folder) {
      const LoadedModel model = load_model(folder);
      const auto moments = io::read_tensors(folder, "optimizer");
      const int64_t step = read_trainer_state(folder).step;
      verify_manifest(folder);  // what was read just now is what was published
      for (const auto& [name, parameter] : named_weights(*model.model))
        EXPECT_TRUE(parameter.eq(static_cast<double>(step)).all().item<bool>()) << name;
      EXPECT_GE(step, steps.empty() ? 1 : *steps.rbegin());
      steps.insert(step);
    });
  }
  end(child);
  EXPECT_EQ(steps.size(), kCheckpoints);
}

/// C2. Every call on a file fails in turn while a checkpoint is saved beside an old one.
TEST_F(Attack, AtEveryFailingCallTheOldCheckpointStaysAndTheNextSaveWorks) {
  run_->save(parts(1), 1, options());
  int64_t calls = 0;
  {
    const Faults faults;
    run_->save(parts(2), 2, options());
    calls = faults.calls();
  }
  ASSERT_GT(calls, 100);
  int64_t step = 2, errors = 0;
  for (int64_t at = 0; at < calls; ++at) {
    for (const int error : {ENOSPC, EIO, EDQUOT, EINTR, kShortWrite, -ENOSPC}) {
      const Fault fault{.at = at, .error = error < -1 ? -error : error, .lasting = error < -1};
      SCOPED_TRACE(fmt::format("call {} of {}, error {}", at, calls, error));
      const FolderParts content = parts(++step);
      std::string message, failed;
      {
        CheckpointWriter writer(*run_, options(), /*async=*/at % 2 == 0);
        const Faults faults(fault);
        writer.save(content, step);
        writer.wait();
        const auto reports = writer.reports();
        ASSERT_EQ(reports.size(), 1U);
        message = reports[0].error;
        failed = faults.failed();
      }
      const int64_t newest = load_newest();
      if (message.empty()) {
        EXPECT_EQ(newest, step);
      } else {
        ++errors;
        ASSERT_TRUE(fault.error != EINTR && fault.error != kShortWrite) << message;
        expect_contains(message, {(folder_ / "run").string(), std::strerror(fault.error)});
        EXPECT_EQ(message.find('\n'), std::string::npos) << message;
        // The checkpoint before stays until `latest` is known to be on the disk.
        EXPECT_NO_THROW(verify_manifest(run_->checkpoints() / fmt::format("step-{:08}", step - 1)));
        if (!failed.starts_with("unlink")) {
          for (const std::string& name : names()) EXPECT_NE(name[0], '.') << failed << " " << name;
        }
      }
      {
        const Faults none;  // and no waiting for the disk
        ++step;
        run_->save(parts(step), step, options());
      }
      EXPECT_EQ(load_newest(), step);
      // After a successful save nothing is left of what went wrong.
      for (const std::string& name : names()) EXPECT_NE(name[0], '.') << name;
      EXPECT_EQ(names().size(), 3U);
      if (HasFailure()) FAIL() << message;
    }
  }
  EXPECT_GT(errors, calls);
}

/// C5. Any one byte of any file of the newest checkpoint.
TEST_F(Attack, EveryFlippedByteIsNoticedAndTheOlderCheckpointNamed) {
  run_->save(parts(1), 1, {});
  run_->save(parts(2), 2, {});
  const fs::path older = run_->checkpoints() / "step-00000001", newest = run_->checkpoints() / "step-00000002";
  const auto flip_and_expect = [&](const fs::path& path, size_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto flip = [&] {
      file.seekg(static_cast<std::streamoff>(at));
      const int byte = file.get();
      file.seekp(static_cast<std::streamoff>(at));
      file.put(static_cast<char>(byte ^ (1 << (at % 8))));
      file.flush();
    };
    flip();
    const std::string message = error_of([&] { choose_checkpoint(*run_, "auto"); });
    expect_contains(message, {path.string() + "' is damaged"});
    if (at % 100 == 0) expect_contains(message, {"--resume " + older.string()});
    flip();
  };
  std::mt19937 random(3);
  const std::vector<const char*> files = {"model.safetensors", "optimizer.safetensors", "trainer.json", "config.json",
                                          "manifest.json"};
  for (const char* name : files) {
    const fs::path path = newest / name;
    const size_t size = fs::file_size(path);
    const bool tensors = path.extension() == ".safetensors";
    uint64_t header = 0;
    std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(&header), sizeof header);
    const size_t whole = tensors ? header + sizeof header : 0;
    for (size_t at = 0; at < whole; ++at) flip_and_expect(path, at);
    for (int i = 0; i < 2000; ++i) flip_and_expect(path, std::uniform_int_distribution<size_t>(0, size - 1)(random));
    if (HasFailure()) FAIL() << name;
  }
  EXPECT_NO_THROW(choose_checkpoint(*run_, "auto"));
}

/// The same without a manifest, as a model from elsewhere has none: an error or other values, never a crash.
TEST_F(Attack, FlippedBytesOfModelsWithoutAManifestDoNoHarm) {
  const fs::path folder = folder_ / "model";
  fs::create_directory(folder);
  save_model(*model_, {{"type", "bytes"}}, folder);
  int refused = 0;
  for (const char* name : {"config.json", "model.safetensors"}) {
    const std::string text = read_file(folder / name);
    const size_t bytes = std::min<size_t>(text.size(), 2000);
    for (size_t at = 0; at < bytes; ++at) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
      std::ofstream(folder / name, std::ios::binary) << damaged;
      try {
        load_model(folder);
      } catch (const Error&) {
        ++refused;
      }
    }
    std::ofstream(folder / name, std::ios::binary) << text;
  }
  EXPECT_GT(refused, 1000);
  EXPECT_NO_THROW(load_model(folder));
}

}  // namespace
}  // namespace megalodon
